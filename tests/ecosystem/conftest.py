"""The doors of a running mesh. `.ci/ecosystem` starts one and names them."""

import os

import pytest

# What reads well as a product title for the shipped model, and as anything at
# all for a model with random weights.
TITLES = [
    "sony mdr-zx110 on-ear headphones black",
    "รองเท้า Nike Air Max ของแท้",
    "Apple iPhone 15 case, clear, with MagSafe",
    "Bosch GSR 12V-15 cordless drill driver",
    "Xiaomi Redmi Note 13 Pro 5G 256GB",
    "Philips Sonicare replacement brush heads, 4 pack",
]


def named(variable: str) -> str:
    value = os.environ.get(variable)
    if not value:
        pytest.exit(f"{variable} is not set: run these tests with .ci/ecosystem", 4)
    return value


GATEWAY = named("TIERMESH_GATEWAY")
EDGE = named("TIERMESH_EDGE")
DEVICE = named("TIERMESH_DEVICE")


@pytest.fixture(params=[GATEWAY, EDGE, DEVICE], ids=["gateway", "edge", "device"])
def door(request) -> str:
    """Each test that asks for a door runs at all three: they serve one API."""
    return request.param


@pytest.fixture
def gateway() -> str:
    return GATEWAY


@pytest.fixture
def edge() -> str:
    return EDGE


@pytest.fixture
def mesh_model() -> str:
    """The model that the device and the edges run."""
    return named("TIERMESH_MODEL")


@pytest.fixture
def cloud_model() -> str:
    """The model of the cloud tier, by Bedrock's own id."""
    return "amazon.nova-lite-v1:0"


@pytest.fixture
def cloud_family() -> str:
    """The same model by its family, which is what people type."""
    return "nova-lite"
