"""boto3's own Bedrock client, its endpoint URL pointed at the mesh."""

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from conftest import TITLES

MAX_TOKENS = 64


def ask(title: str = TITLES[0], **more) -> dict:
    messages = [{"role": "user", "content": [{"text": title}]}]
    return {"messages": messages, "inferenceConfig": {"maxTokens": MAX_TOKENS}, **more}


@pytest.fixture
def bedrock(door):
    return boto3.client(
        "bedrock-runtime",
        endpoint_url=door,
        region_name="us-east-1",
        # The SDK must sign with something; the door does not read it.
        aws_access_key_id="unused",
        aws_secret_access_key="unused",
        config=Config(retries={"max_attempts": 1}, read_timeout=20),
    )


@pytest.fixture(params=["mesh_model", "cloud_model", "cloud_family"])
def model(request):
    """A model the mesh runs, and Bedrock's by its id and by its family."""
    return request.getfixturevalue(request.param)


def streamed(bedrock, **request):
    events = [next(iter(e.items())) for e in bedrock.converse_stream(**request)["stream"]]
    names = [name for name, _ in events]
    deltas = [body["delta"]["text"] for name, body in events if name == "contentBlockDelta"]
    return names, deltas, dict(events)


def test_converse_answers(bedrock, model):
    answer = bedrock.converse(modelId=model, **ask())
    message = answer["output"]["message"]
    assert message["role"] == "assistant" and message["content"][0]["text"]
    assert answer["stopReason"] in {"end_turn", "max_tokens"}
    usage = answer["usage"]
    assert usage["totalTokens"] == usage["inputTokens"] + usage["outputTokens"]
    assert 0 < usage["outputTokens"] <= MAX_TOKENS
    headers = answer["ResponseMetadata"]["HTTPHeaders"]
    assert headers["x-tiermesh-tier"] in {"DEVICE", "MEC", "CLOUD"}


def test_converse_stream_has_bedrocks_order_of_events(bedrock, model):
    names, deltas, bodies = streamed(bedrock, modelId=model, **ask())
    assert names[0] == "messageStart"
    assert names[-3:] == ["contentBlockStop", "messageStop", "metadata"]
    assert set(names[1:-3]) == {"contentBlockDelta"}
    assert bodies["messageStop"]["stopReason"] in {"end_turn", "max_tokens"}
    assert bodies["metadata"]["usage"]["outputTokens"] > 0
    assert bodies["metadata"]["metrics"]["latencyMs"] >= 0
    whole = bedrock.converse(modelId=model, **ask())
    assert "".join(deltas) == whole["output"]["message"]["content"][0]["text"]


def test_an_answer_arrives_in_pieces(bedrock, model):
    # Tokens are batched for a reader slower than the model, so one answer may
    # come in one piece; not all of them, however busy the machine is.
    seen = []
    for _ in range(10):
        counts = [len(streamed(bedrock, modelId=model, **ask(title))[1]) for title in TITLES]
        if max(counts) > 1:
            return
        seen.append(counts)
    pytest.fail(f"every answer came in one piece: {seen}")


def test_the_meshs_own_fields_travel_in_request_metadata(bedrock):
    answer = bedrock.converse(modelId="auto", **ask(requestMetadata={"policy": "iot"}))
    assert answer["ResponseMetadata"]["HTTPHeaders"]["x-tiermesh-tier"] == "MEC"
    with pytest.raises(ClientError) as failed:
        bedrock.converse(modelId="auto", **ask(requestMetadata={"privacy": "nowhere"}))
    assert failed.value.response["Error"]["Code"] == "ValidationException"


@pytest.mark.parametrize("unknown", ["no-such-model", "amazon.titan-text-express-v1"])
def test_an_unknown_model_is_bedrocks_not_found(bedrock, unknown, mesh_model):
    for call in [bedrock.converse, bedrock.converse_stream]:
        with pytest.raises(bedrock.exceptions.ResourceNotFoundException) as failed:
            call(modelId=unknown, **ask())
        assert mesh_model in str(failed.value)


def test_a_request_that_makes_no_sense_is_a_validation_exception(bedrock, mesh_model):
    for wrong in [
        ask() | {"inferenceConfig": {"maxTokens": 100_000}},
        ask() | {"messages": []},
        ask() | {"toolConfig": {"tools": [{"toolSpec": {"name": "t", "inputSchema": {"json": {}}}}]}},
    ]:
        with pytest.raises(bedrock.exceptions.ValidationException):
            bedrock.converse(modelId=mesh_model, **wrong)
