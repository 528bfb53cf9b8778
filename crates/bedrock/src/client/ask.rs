//! A request of the mesh as a call of Bedrock's `ConverseStream`.

use aws_sdk_bedrockruntime::Client;
use aws_sdk_bedrockruntime::operation::converse_stream::builders::ConverseStreamFluentBuilder;
use aws_sdk_bedrockruntime::types::{
    ContentBlock, ConversationRole, InferenceConfiguration, Message, SystemContentBlock,
};
use tiermesh_core::{
    Content, ErrorClass, InferError, NodeId, Refusal, RequestMeta, Role, Sampling, Via,
};

/// Builds the call. `top_k` and the seed have no field of Converse's own and
/// are not sent; Bedrock does not promise equal answers anyway.
pub(super) fn call(
    client: &Client,
    bedrock_id: &str,
    meta: &RequestMeta,
    content: &Content,
) -> Result<ConverseStreamFluentBuilder, Refusal> {
    let turns = Turns::of(content);
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
        .inference_config(inference(&meta.sampling)))
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

/// The hops so far and the gateway, as the header spells them.
pub(super) fn via(hops: &Via, gateway: &NodeId) -> String {
    let mut names: Vec<&str> = hops.hops().iter().map(NodeId::as_str).collect();
    if names.last() != Some(&gateway.as_str()) {
        names.push(gateway.as_str());
    }
    names.join(", ")
}

fn inference(sampling: &Sampling) -> InferenceConfiguration {
    // Converse stops at 1 where the mesh goes to 2.
    let mut config = InferenceConfiguration::builder()
        .max_tokens(i32::try_from(sampling.max_tokens).unwrap_or(i32::MAX))
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
        let config = inference(&Sampling {
            temperature: 1.5,
            ..Sampling::default()
        });
        assert_eq!(config.temperature(), Some(1.0));
        assert_eq!(config.top_p(), None);
        assert!(config.stop_sequences().is_empty());
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
