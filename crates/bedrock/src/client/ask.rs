//! A request of the mesh as a call of Bedrock's `ConverseStream`.

use std::collections::HashMap;

use super::prefill::Prefill;
use aws_sdk_bedrockruntime::Client;
use aws_sdk_bedrockruntime::operation::converse_stream::builders::ConverseStreamFluentBuilder;
use aws_sdk_bedrockruntime::types::{
    ContentBlock, ConversationRole, InferenceConfiguration, Message, SystemContentBlock,
};
use aws_smithy_types::Document;
use tiermesh_core::{
    Content, ErrorClass, InferError, NodeId, Refusal, RequestMeta, Role, Sampling, Via,
};

/// What is asked.
pub(super) struct Asked<'a> {
    pub(super) meta: &'a RequestMeta,
    pub(super) content: &'a Content,
    pub(super) prefill: &'a Prefill,
}

/// Builds the call. The seed has no field of Converse's own and is not sent:
/// Bedrock does not promise equal answers anyway. What else it has no field
/// for is refused, so that somebody else of the plan can do it.
pub(super) fn call(
    client: &Client,
    bedrock_id: &str,
    asked: &Asked<'_>,
) -> Result<ConverseStreamFluentBuilder, Refusal> {
    let (meta, prefill) = (asked.meta, asked.prefill);
    let more = more(bedrock_id, &meta.sampling)?;
    let mut turns = Turns::of(asked.content);
    turns.say(ConversationRole::Assistant, &prefill.text);
    if turns.messages.is_empty() {
        return Err(InferError::new(
            ErrorClass::InvalidArgument,
            "INVALID_FIELD",
            "`content.messages` has no text of a user: a conversation needs at least one",
        )
        .with("field", "content.messages"));
    }
    let messages = turns
        .messages
        .into_iter()
        .map(|turn| {
            let blocks = turn.texts.into_iter().map(ContentBlock::Text);
            Message::builder()
                .role(turn.role)
                .set_content(Some(blocks.collect()))
                .build()
        })
        .collect::<Result<Vec<_>, _>>()
        .map_err(|error| {
            InferError::new(ErrorClass::Internal, "BEDROCK_REQUEST", error.to_string())
        })?;
    let system: Vec<_> = turns
        .system
        .into_iter()
        .map(SystemContentBlock::Text)
        .collect();
    Ok(client
        .converse_stream()
        .model_id(bedrock_id)
        .set_messages(Some(messages))
        .set_system((!system.is_empty()).then_some(system))
        .set_additional_model_request_fields(more)
        .inference_config(inference(&meta.sampling, most_output(meta, prefill))))
}

/// The most tokens the prompt can be billed for: a token has at least a byte,
/// and a message's frame some tokens.
pub(super) fn most_tokens(content: &Content) -> u64 {
    const FRAME_TOKENS: usize = 16;
    let messages = match content {
        Content::Prompt(_) => 1,
        Content::Messages(messages) => messages.len(),
    };
    (content.bytes() + FRAME_TOKENS * (messages + 1)) as u64
}

/// The most tokens that may still be written; Converse wants one at least.
pub(super) fn most_output(meta: &RequestMeta, prefill: &Prefill) -> u64 {
    let most = u64::from(meta.sampling.max_tokens);
    most.saturating_sub(prefill.tokens).max(1)
}

/// The hops so far and the gateway, as the header spells them.
pub(super) fn via(hops: &Via, gateway: &NodeId) -> String {
    let mut names: Vec<&str> = hops.hops().iter().map(NodeId::as_str).collect();
    if names.last() != Some(&gateway.as_str()) {
        names.push(gateway.as_str());
    }
    names.join(", ")
}

fn inference(sampling: &Sampling, most_output: u64) -> InferenceConfiguration {
    // Converse stops at 1 where the mesh goes to 2.
    let mut config = InferenceConfiguration::builder()
        .max_tokens(i32::try_from(most_output).unwrap_or(i32::MAX))
        .temperature(sampling.temperature.min(1.0));
    if sampling.top_p < 1.0 {
        // Some models refuse it beside a temperature, so it goes only when asked for.
        config = config.top_p(sampling.top_p);
    }
    if !sampling.stop.is_empty() {
        config = config.set_stop_sequences(Some(sampling.stop.clone()));
    }
    config.build()
}

/// What goes beside Converse's own fields: `top_k`, by the names that
/// Anthropic's and Amazon's models have for it. Nothing that only filters
/// draws matters where nothing is drawn.
fn more(bedrock_id: &str, sampling: &Sampling) -> Result<Option<Document>, Refusal> {
    let draws = sampling.temperature > 0.0;
    let lost = [
        ("min_p", draws && sampling.min_p > 0.0),
        (
            "repetition_penalty",
            sampling.repetition_penalty.is_some_and(|p| p != 1.0),
        ),
        ("presence_penalty", sampling.presence_penalty != 0.0),
        ("frequency_penalty", sampling.frequency_penalty != 0.0),
        ("logit_bias", !sampling.logit_bias.is_empty()),
        ("logprobs", sampling.logprobs.is_some()),
        ("constraint", sampling.constraint.is_some()),
    ];
    if let Some((field, _)) = lost.into_iter().find(|(_, lost)| *lost) {
        return Err(unsupported(field));
    }
    if !draws || sampling.top_k == 0 {
        return Ok(None);
    }
    let top_k = Document::from(u64::from(sampling.top_k));
    let object = |name: &str, value| Document::from(HashMap::from([(name.to_owned(), value)]));
    if bedrock_id.contains("anthropic.") {
        Ok(Some(object("top_k", top_k)))
    } else if bedrock_id.contains("amazon.nova") {
        Ok(Some(object("inferenceConfig", object("topK", top_k))))
    } else {
        Err(unsupported("top_k"))
    }
}

/// Not an invalid argument: another node can do it.
fn unsupported(field: &str) -> Refusal {
    let message = format!("the cloud tier's model cannot do `{field}`");
    InferError::new(ErrorClass::NotFound, "PARAMETER_NOT_SUPPORTED", message).with("field", field)
}

/// A conversation as Converse wants it: instructions apart, roles taking
/// turns, and no blank text.
#[derive(Debug, PartialEq)]
struct Turns {
    system: Vec<String>,
    messages: Vec<Turn>,
}

#[derive(Debug, PartialEq)]
struct Turn {
    role: ConversationRole,
    texts: Vec<String>,
}

impl Turns {
    fn of(content: &Content) -> Self {
        let mut turns = Self {
            system: Vec::new(),
            messages: Vec::new(),
        };
        match content {
            Content::Prompt(text) => turns.say(ConversationRole::User, text),
            Content::Messages(messages) => {
                for message in messages {
                    match message.role {
                        Role::System if message.text.trim().is_empty() => {}
                        Role::System => turns.system.push(message.text.clone()),
                        Role::User => turns.say(ConversationRole::User, &message.text),
                        Role::Assistant => turns.say(ConversationRole::Assistant, &message.text),
                    }
                }
            }
        }
        turns
    }

    fn say(&mut self, role: ConversationRole, text: &str) {
        if text.trim().is_empty() {
            return;
        }
        match self.messages.last_mut() {
            Some(turn) if turn.role == role => turn.texts.push(text.to_owned()),
            _ => self.messages.push(Turn {
                role,
                texts: vec![text.to_owned()],
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tiermesh_core::Message as Said;

    fn said(role: Role, text: &str) -> Said {
        Said {
            role,
            text: text.into(),
        }
    }

    #[test]
    fn roles_take_turns_and_instructions_go_apart() {
        let turns = Turns::of(&Content::Messages(vec![
            said(Role::System, "be brief"),
            said(Role::User, "one"),
            said(Role::User, "two"),
            said(Role::User, "  "),
            said(Role::Assistant, "three"),
            said(Role::System, "be kind"),
            said(Role::User, "four"),
        ]));
        assert_eq!(turns.system, ["be brief", "be kind"]);
        let texts: Vec<_> = turns.messages.iter().map(|t| t.texts.join("|")).collect();
        assert_eq!(texts, ["one|two", "three", "four"]);
        assert_eq!(turns.messages[1].role, ConversationRole::Assistant);
    }

    #[test]
    fn a_prompt_is_one_message_of_the_user() {
        let turns = Turns::of(&Content::Prompt("hello".into()));
        assert_eq!(turns.messages.len(), 1);
        assert_eq!(turns.messages[0].role, ConversationRole::User);
    }

    #[test]
    fn only_what_was_asked_for_is_sent() {
        let config = inference(
            &Sampling {
                temperature: 1.5,
                ..Sampling::default()
            },
            256,
        );
        assert_eq!(config.temperature(), Some(1.0));
        assert_eq!(config.top_p(), None);
        assert!(config.stop_sequences().is_empty());
    }

    #[test]
    fn what_bedrock_cannot_do_is_refused_by_name_and_someone_else_may_answer() {
        let refused = |change: fn(&mut Sampling)| {
            let mut sampling = Sampling {
                temperature: 0.5,
                ..Sampling::default()
            };
            change(&mut sampling);
            let error = more("meta.llama3-1-8b-instruct-v1:0", &sampling).unwrap_err();
            assert!(error.class.another_may_answer() && !error.class.blames_the_node());
            error.metadata[0].1.clone()
        };
        assert_eq!(refused(|s| s.min_p = 0.1), "min_p");
        assert_eq!(
            refused(|s| s.repetition_penalty = Some(1.1)),
            "repetition_penalty"
        );
        assert_eq!(refused(|s| s.presence_penalty = 1.0), "presence_penalty");
        assert_eq!(refused(|s| s.frequency_penalty = -1.0), "frequency_penalty");
        assert_eq!(refused(|s| s.logit_bias = vec![(1, 1.0)]), "logit_bias");
        assert_eq!(refused(|s| s.logprobs = Some(0)), "logprobs");
        assert_eq!(refused(|s| s.top_k = 5), "top_k");
    }

    #[test]
    fn top_k_goes_by_the_name_the_model_has_for_it() {
        let asked = Sampling {
            temperature: 0.5,
            top_k: 40,
            repetition_penalty: Some(1.0),
            ..Sampling::default()
        };
        let sent = |id| more(id, &asked).unwrap().unwrap();
        let claude = sent("us.anthropic.claude-sonnet-4-20250514-v1:0");
        let top_k = Document::from(40u64);
        assert_eq!(claude.as_object().unwrap()["top_k"], top_k);
        let nova = sent("amazon.nova-lite-v1:0");
        let nested = nova.as_object().unwrap()["inferenceConfig"].as_object();
        assert_eq!(nested.unwrap()["topK"], top_k);
        let greedy = Sampling {
            temperature: 0.0,
            min_p: 0.5,
            ..asked
        };
        assert_eq!(
            more("meta.llama", &greedy).unwrap(),
            None,
            "nothing is drawn"
        );
    }

    #[test]
    fn via_ends_with_the_gateway() {
        let node = |name: &str| NodeId::new(name).unwrap();
        let hops = Via::from_hops([node("phone")]).unwrap();
        assert_eq!(via(&hops, &node("gw")), "phone, gw");
        let hops = hops.then(node("gw")).unwrap();
        assert_eq!(via(&hops, &node("gw")), "phone, gw");
    }
}
