"""The collection of all weights."""

import pytest

from tests.hub_server import HubServer
from tests.publish.folders import NAME, REPOSITORY
from wszoo.publish import (
    COLLECTION,
    Publication,
    collect,
)


def test_the_collection_holds_each_once_with_its_accuracy(
    hub: HubServer, publication: Publication
) -> None:
    slug = collect([(NAME, REPOSITORY)])
    again = collect([(NAME, REPOSITORY), ("resnet18_gn_ws.e20_tin200", "tester/resnet18")])

    (collection,) = hub.collections.values()
    assert slug == again == collection["slug"]
    assert (collection["title"], collection["private"]) == (COLLECTION, False)
    notes = {item["id"]: item["note"]["text"] for item in collection["items"]}
    assert notes == {
        REPOSITORY: "17.42 % top-1 on Tiny ImageNet val, 0.35 M parameters",
        "tester/resnet18": "51.4 % top-1 on Tiny ImageNet val, 11.28 M parameters",
    }


def test_a_collection_that_is_not_there_is_told(hub: HubServer) -> None:
    with pytest.raises(FileNotFoundError, match="the weights are published, the collection is not"):
        collect([(NAME, REPOSITORY)], slug="tester/other-0123")
