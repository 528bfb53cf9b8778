"""OpenAI's own client, its base URL pointed at each of the mesh's doors."""

import openai
import pytest
from conftest import TITLES


@pytest.fixture
def client(door):
    with openai.OpenAI(
        base_url=f"{door}/v1", api_key="unused", max_retries=0, timeout=20
    ) as client:
        yield client


def ask(title: str = TITLES[0], **more) -> dict:
    return {"messages": [{"role": "user", "content": title}], "max_tokens": 64, **more}


def test_models_are_listed_and_found_one_by_one(client, mesh_model, cloud_model):
    ids = [model.id for model in client.models.list()]
    assert {mesh_model, cloud_model} <= set(ids)
    assert len(ids) == len(set(ids))
    assert client.models.retrieve(mesh_model).id == mesh_model


def test_a_chat_is_answered_whole(client, mesh_model):
    answer = client.chat.completions.create(model=mesh_model, **ask())
    choice = answer.choices[0]
    assert choice.message.role == "assistant" and choice.message.content
    assert choice.finish_reason in {"stop", "length"}
    assert answer.model == mesh_model
    assert 0 < answer.usage.completion_tokens <= 64
    usage = answer.usage
    assert usage.total_tokens == usage.prompt_tokens + usage.completion_tokens


def test_a_streamed_chat_says_the_same_and_ends_with_usage(client, mesh_model):
    whole = client.chat.completions.create(model=mesh_model, **ask())
    options = {"include_usage": True}
    stream = client.chat.completions.create(
        model=mesh_model, stream=True, stream_options=options, **ask()
    )
    chunks = list(stream)
    assert len({chunk.id for chunk in chunks}) == 1
    said = [c.choices[0] for c in chunks if c.choices]
    assert said[0].delta.role == "assistant"
    text = "".join(choice.delta.content or "" for choice in said)
    assert text == whole.choices[0].message.content
    assert [c.finish_reason for c in said if c.finish_reason] == [whole.choices[0].finish_reason]
    assert chunks[-1].usage == whole.usage


def test_a_stream_arrives_in_pieces(client, mesh_model):
    def pieces(title):
        stream = client.chat.completions.create(model=mesh_model, stream=True, **ask(title))
        return sum(1 for c in stream if c.choices and c.choices[0].delta.content)

    # One answer may be batched into one piece for a reader slower than the
    # model; not all of them.
    counts = [pieces(title) for title in TITLES]
    assert max(counts) > 1, counts


def test_the_policy_header_routes(client):
    raw = client.chat.completions.with_raw_response.create(
        model="auto", extra_headers={"x-tiermesh-policy": "iot"}, **ask()
    )
    assert raw.headers["x-tiermesh-tier"] == "MEC"
    assert raw.parse().choices[0].message.content


def test_a_stream_left_early_leaves_the_door_answering(client, mesh_model):
    stream = client.chat.completions.create(
        model=mesh_model, stream=True, **ask(max_tokens=400, temperature=2.0)
    )
    next(iter(stream))
    stream.close()
    assert client.chat.completions.create(model=mesh_model, **ask()).choices


def test_an_unknown_model_is_not_found(client, mesh_model):
    for stream in [False, True]:
        with pytest.raises(openai.NotFoundError) as failed:
            client.chat.completions.create(model="no-such-model", stream=stream, **ask())
        assert failed.value.code == "model_not_found"
        assert mesh_model in failed.value.message


def test_a_wrong_parameter_is_a_bad_request_that_names_it(client, mesh_model):
    with pytest.raises(openai.BadRequestError) as failed:
        client.chat.completions.create(model=mesh_model, **ask(max_tokens=100_000))
    assert "max_tokens" in failed.value.message


def test_what_is_not_served_is_refused_and_not_ignored(client, mesh_model):
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    with pytest.raises(openai.BadRequestError):
        client.chat.completions.create(model=mesh_model, tools=tools, **ask())
