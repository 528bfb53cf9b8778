"""grpcio, knowing nothing but what reflection tells: no generated code."""

from collections import namedtuple

import grpc
import pytest
from conftest import TITLES
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message_factory import GetMessageClass
from google.rpc import error_details_pb2, status_pb2
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import (
    ProtoReflectionDescriptorDatabase,
)

SECONDS = 20
Method = namedtuple("Method", "request call pool")


class Client:
    """Calls methods by name, with messages built from the server's descriptors."""

    def __init__(self, url: str):
        self.channel = grpc.insecure_channel(url.removeprefix("http://"))
        self.database = ProtoReflectionDescriptorDatabase(self.channel)
        self.pool = DescriptorPool(self.database)

    def method(self, service: str, name: str) -> Method:
        method = self.pool.FindServiceByName(service).methods_by_name[name]
        request = GetMessageClass(method.input_type)
        response = GetMessageClass(method.output_type)
        make = self.channel.unary_stream if method.server_streaming else self.channel.unary_unary
        call = make(
            f"/{service}/{name}",
            request_serializer=request.SerializeToString,
            response_deserializer=response.FromString,
        )
        return Method(request, call, self.pool)

    def infer(self, timeout: float = SECONDS, **fields):
        request, call, _ = self.method("tiermesh.v1.Inference", "Infer")
        return list(call(request(**fields), timeout=timeout))


@pytest.fixture
def client(door):
    client = Client(door)
    yield client
    client.channel.close()


def details_of(error: grpc.RpcError) -> dict:
    """google.rpc's details of a failed call, by type."""
    trailers = dict(error.trailing_metadata())
    status = status_pb2.Status.FromString(trailers["grpc-status-details-bin"])
    found = {}
    for detail in status.details:
        name = detail.type_url.rsplit(".", 1)[-1]
        message = getattr(error_details_pb2, name)()
        assert detail.Unpack(message)
        found[name] = message
    return found


def text_of(events) -> str:
    return "".join(token.text for event in events for token in event.tokens.items)


def test_reflection_lists_every_service(client):
    services = set(client.database.get_services())
    assert {"tiermesh.v1.Inference", "tiermesh.v1.Fleet", "grpc.health.v1.Health"} <= services


def test_an_answer_is_accepted_then_numbered_without_a_gap_then_done(client, mesh_model):
    events = client.infer(prompt=TITLES[0], model=mesh_model, sampling={"max_tokens": 64})
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[0] == "accepted" and kinds[-1] == "done"
    assert set(kinds[1:-1]) == {"tokens"}
    decision = events[0].accepted.decision
    assert decision.model == mesh_model and decision.node and decision.reasons
    following = 0
    for event in events[1:-1]:
        assert event.tokens.first_seq == following
        following += len(event.tokens.items)
    done = events[-1].done
    assert done.output_tokens == following > 0
    assert done.input_tokens > 0
    assert [attempt.node for attempt in done.attempts] == [decision.node]


def test_the_same_seed_is_the_same_answer_at_any_temperature(client, mesh_model):
    def ask(seed):
        events = client.infer(
            prompt=TITLES[1],
            model=mesh_model,
            seed=seed,
            sampling={"temperature": 2.0, "max_tokens": 24},
        )
        return text_of(events)

    assert ask(7) == ask(7)
    assert len({ask(seed) for seed in range(8)}) > 1


def test_a_deadline_that_cannot_be_met_ends_the_stream_with_a_reason(client, cloud_model):
    with pytest.raises(grpc.RpcError) as failed:
        client.infer(
            prompt=TITLES[0],
            model=cloud_model,
            deadline_ms={"total": 1},
            sampling={"max_tokens": 2000},
        )
    assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    info = details_of(failed.value)["ErrorInfo"]
    assert info.domain == "tiermesh" and info.reason


def test_the_callers_own_deadline_binds_the_stream(client, mesh_model):
    """The pattern makes the answer long, so that no machine is too fast for the deadline."""
    sampling = {"max_tokens": 400, "regex": "[a-z]{400}"}
    with pytest.raises(grpc.RpcError) as failed:
        client.infer(timeout=0.002, prompt=TITLES[0], model=mesh_model, sampling=sampling)
    assert failed.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED


def test_an_unknown_model_is_not_found_and_the_error_names_those_there_are(client, mesh_model):
    with pytest.raises(grpc.RpcError) as failed:
        client.infer(prompt=TITLES[0], model="no-such-model")
    assert failed.value.code() == grpc.StatusCode.NOT_FOUND
    info = details_of(failed.value)["ErrorInfo"]
    assert info.reason == "MODEL_NOT_FOUND"
    assert mesh_model in info.metadata["allowed"]


def test_a_wrong_field_is_named(client):
    with pytest.raises(grpc.RpcError) as failed:
        client.infer(prompt=TITLES[0], sampling={"max_tokens": 100_000})
    assert failed.value.code() == grpc.StatusCode.INVALID_ARGUMENT
    details = details_of(failed.value)
    assert details["ErrorInfo"].metadata["field"] == "max_tokens"
    assert [v.field for v in details["BadRequest"].field_violations] == ["max_tokens"]


def test_edge_content_is_answered_at_the_edge_and_sent_there_by_the_gateway(gateway, edge):
    at_edge = Client(edge)
    privacy = at_edge.pool.FindEnumTypeByName("tiermesh.v1.Privacy")
    edge_only = privacy.values_by_name["PRIVACY_EDGE"].number
    events = at_edge.infer(prompt=TITLES[0], privacy=edge_only, sampling={"max_tokens": 8})
    assert events[-1].done.output_tokens > 0
    with pytest.raises(grpc.RpcError) as failed:
        Client(gateway).infer(prompt=TITLES[0], privacy=edge_only)
    assert failed.value.code() == grpc.StatusCode.FAILED_PRECONDITION
    assert details_of(failed.value)["ErrorInfo"].metadata["endpoint"].startswith("http://")


def test_explain_tells_and_runs_nothing(client):
    request, call, pool = client.method("tiermesh.v1.Inference", "Explain")
    decision = call(request(prompt=TITLES[0], policy="iot"), timeout=SECONDS)
    tiers = pool.FindEnumTypeByName("tiermesh.v1.Tier").values_by_number
    assert tiers[decision.tier].name == "MEC"
    assert decision.scores and decision.reasons


def test_the_gateway_lists_its_nodes(gateway):
    request, call, _ = Client(gateway).method("tiermesh.v1.Fleet", "ListNodes")
    nodes = {node.node for node in call(request(), timeout=SECONDS).nodes}
    assert {"edge-1", "edge-2", "phone-1"} <= nodes


def test_health_is_serving(client):
    health = health_pb2_grpc.HealthStub(client.channel)
    for service in ["", "tiermesh.v1.Inference", "tiermesh.v1.Fleet"]:
        answer = health.Check(health_pb2.HealthCheckRequest(service=service), timeout=SECONDS)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    with pytest.raises(grpc.RpcError) as failed:
        health.Check(health_pb2.HealthCheckRequest(service="nobody"), timeout=SECONDS)
    assert failed.value.code() == grpc.StatusCode.NOT_FOUND
