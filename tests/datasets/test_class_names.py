import json
from pathlib import PurePosixPath

import pytest

from wszoo.datasets.class_names import find_class_names, read_class_names
from wszoo.datasets.listing import ListedFile


def listed(place: str, text: str) -> ListedFile:
    return ListedFile(name=f"set/{place}", place=PurePosixPath(place), kept=text.encode())


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("classes.txt", "sky\ntraffic light\n\n"),
        ("labels.txt", "# mine\nsky\r\ntraffic light"),
        ("classes.txt", "\ufeffsky\ntraffic light"),
        ("classes.txt", "1: traffic light\n0: sky\n"),
        ("classes.txt", "0 sky\n1 traffic light\n"),
        ("classes.txt", "128 64 0 sky\n0 0 9 traffic light\n"),
        ("classes.txt", "1 0 0 9 traffic light\n0 128 64 0 sky\n"),
        ("classes.csv", "sky,128,64,0\ntraffic light,0,0,9\n"),
        ("classes.csv", "name,r,g,b\nsky,128,64,0\ntraffic light,0,0,9\n"),
        ("classes.tsv", "index\tname\n1\ttraffic light\n0\tsky\n"),
        ("classes.json", json.dumps(["sky", "traffic light"])),
        ("classes.json", json.dumps({"1": "traffic light", "0": "sky"})),
        ("classes.json", json.dumps({"traffic light": 1, "sky": 0})),
        (
            "classes.json",
            '[{"id": 1, "name": "traffic light"}, {"id": 0, "name": "sky"}]',
        ),
    ],
)
def test_names_are_read_in_the_order_of_their_values(name: str, text: str) -> None:
    assert read_class_names(listed(name, text)) == ("sky", "traffic light")


def test_a_number_that_belongs_to_a_name_stays() -> None:
    assert read_class_names(listed("classes.txt", "sky\n2 door car")) == ("sky", "2 door car")
    assert read_class_names(listed("classes.txt", "7\n8")) == ("7", "8")


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("classes.txt", "", "it holds none"),
        ("classes.txt", "sky\nsky", "it names 'sky' twice"),
        ("classes.txt", "0 sky\n2 road", "the values are 0 to 2 for 2 names"),
        ("classes.txt", "0 1 sky\n1 1 road", "2 numbers before each name"),
        ("classes.tsv", "name\tindex\nsky", "1 fields in a line for 2 columns"),
        ("classes.json", "[", "Expecting value"),
        ("classes.json", '[{"id": 0}]', "no 'name'"),
        ("classes.json", "3", "not iterable"),
    ],
)
def test_a_class_file_that_makes_no_sense_is_named(name: str, text: str, told: str) -> None:
    with pytest.raises(ValueError, match=f"cannot read names of classes in set/{name}: ") as caught:
        read_class_names(listed(name, text))

    assert told in str(caught.value)


def test_the_class_file_nearest_to_the_root_is_taken() -> None:
    files = [listed("train/classes.txt", "a\nb"), listed("Classes.txt", "sky\nroad")]

    assert find_class_names(files) == ("sky", "road")
    assert find_class_names([listed("notes.txt", "sky")]) is None
