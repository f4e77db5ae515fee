"""The gallery's page: complete, true to the records, self-contained, and harmless."""

import base64
import itertools
import re
import shlex
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import pytest
from click import Group
from PIL import Image

from wszoo.cards import folder as card_folder
from wszoo.cards.folder import default_cards
from wszoo.cli import main
from wszoo.describe import list_rows, macs
from wszoo.gallery.cards import Cards
from wszoo.gallery.markdown import to_html, without_front_matter
from wszoo.gallery.page import render
from wszoo.gallery.plot import LinearScale, LogScale, static_plot
from wszoo.gallery.rows import Row, collect, data_key, data_sets
from wszoo.gallery.site import check_folder, write_site
from wszoo.gallery.snippets import access, snippets
from wszoo.gallery.speed import PACKAGED, Speed, Speeds, measure, read_speeds, write_speeds
from wszoo.weights import PUBLISHED, WEIGHTS, find
from wszoo.ws_resnet import test_resnet_gn_ws as small_net

VOID = {"meta", "link", "input", "br", "hr", "img"}
LOADING = {"src", "srcset", "data", "poster", "action", "background", "ping", "xlink:href"}
SPEEDS = Speeds(
    what="inference",
    hardware="1 thread (a processor)",
    torch="2",
    wszoo="0",
    measured="2026-01-02",
    rounds=3,
    rows=(
        Speed(
            model="test_resnet_gn_ws",
            pixels=64,
            images_per_second=123.4,
            slowest=100.5,
            fastest=150.5,
        ),
    ),
)


class Page(HTMLParser):
    """What a page consists of; fails where elements do not nest."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.open: list[str] = []
        self.texts: list[tuple[str, str]] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append((self.open[-1] if self.open else "", data))

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    """A part of the zoo with everything in it: no weights, no accuracy, two tags, both norms."""
    return [*collect("resnet18*"), *collect("resnet50_[bg]*"), *collect("test*")]


@pytest.fixture(scope="module")
def html(rows: list[Row]) -> str:
    return render(rows, Cards(default_cards()))


@pytest.fixture(scope="module")
def small(rows: list[Row]) -> Row:
    return rows[-1]


def card_of(row: Row, text: str, folder: Path) -> str:
    (folder / row.name).mkdir()
    (folder / row.name / "README.md").write_text(text, encoding="utf-8")
    return Cards(folder).card(row) or ""


def cells(html: str, name: str) -> dict[str, str]:
    """The cells of a row of the table, as a reader sees them."""
    line = re.search(rf'<tr data-name="{re.escape(name)}">(.*?)</tr>', html)
    assert line
    found = re.findall(r'<td data-label="([^"]+)"[^>]*>(.*?)</td>', line[1])
    return {k: re.sub("<[^>]+>", " ", text).replace("&nbsp;", " ").strip() for k, text in found}


def test_rows_are_those_of_the_list_with_exact_numbers(rows: list[Row], small: Row) -> None:
    listed = {row["name"]: row for row in list_rows("resnet18*")}

    assert [row.name for row in rows[: len(listed)]] == list(listed)
    for row in rows[: len(listed)]:
        assert round(row.parameters / 1e6, 2) == listed[row.name]["params_m"]
        assert row.norm == listed[row.name]["norm"]
    assert small.macs == macs(small_net(num_classes=200), find(small.name).input_size)
    assert (small.strides, small.channels[-1]) == ((2, 4, 8, 16, 32), 128)


@pytest.mark.parametrize(
    ("model", "family", "label"),
    [
        ("resnet50_gn_ws", "ResNet", "resnet50"),
        ("resnet50_bcn_ws", "ResNet", "resnet50"),
        ("resnet101d_gn_ws", "ResNet-D", "resnet101d"),
        ("resnext26_32x4d_gn_ws", "ResNeXt", "resnext26_32x4d"),
        ("wide_resnet50_2_gn_ws", "Wide ResNet", "wide_resnet50_2"),
        ("test_resnet_gn_ws", "ResNet", "test_resnet"),
    ],
)
def test_family_and_label_come_from_the_name(
    model: str, family: str, label: str, small: Row
) -> None:
    row = replace(small, model=model)

    assert (row.family, row.label) == (family, label)


def test_nothing_that_matches_is_said() -> None:
    with pytest.raises(ValueError, match="nothing matches 'x'; `wszoo list` shows all"):
        collect("x")


@pytest.mark.slow
def test_every_variant_and_every_set_of_weights_is_on_the_page() -> None:
    rows = collect()
    page = Page(render(rows, Cards(default_cards())))

    names = [row["name"] for row in list_rows()]
    assert [row["data-name"] for row in page.all("tr") if "data-name" in row] == names
    assert [a["id"] for a in page.all("article")] == [f"model={name}" for name in names]
    assert [row.weights for row in rows if row.weights] == sorted(
        WEIGHTS, key=lambda weights: names.index(weights.name)
    )


def test_table_has_the_numbers_of_the_records(rows: list[Row], html: str) -> None:
    for row in rows:
        shown = cells(html, row.name)
        assert shown["Parameters"] == f"{row.parameters / 1e6:.2f} M"
        assert shown["Norm"] == row.norm
        if row.weights is None:
            assert (shown["File"], shown["Top-1"]) == ("no weights yet", "–")
            continue
        assert shown["Licence"] == row.weights.license
        assert shown["Pixels"] == str(row.weights.input_size[-1])
        expected = [
            f"{scores['top1']:.2f} %  {data}" for data, scores in row.weights.metrics.items()
        ]
        assert shown["Top-1"] == (" ".join(expected) or "none published")


def test_accuracies_of_different_data_share_no_plot(rows: list[Row], html: str) -> None:
    assert [data.key for data in data_sets(rows)] == ["tin200", "in1k"]
    for data in data_sets(rows):
        plot = Page(static_plot(rows, data))

        shown = [point["href"].removeprefix("#model=") for point in plot.all("a")]
        assert shown == [w.name for row in rows if (w := row.weights) and data.title in w.metrics]
        assert static_plot(rows, data) in html


def test_panel_tells_both_accuracies_and_on_what(html: str) -> None:
    assert "51.40 % top-1 · 76.41 % top-5 on Tiny ImageNet val" in html
    assert "76.28 % top-1 · 93.01 % top-5 on ImageNet val (published)" in html
    assert "none published, none measured" in html  # BCN


def test_published_accuracies_are_said_to_be_so(rows: list[Row]) -> None:
    notes = {data.title: data.note for data in data_sets(rows)}

    assert "not measured by this zoo" in notes[PUBLISHED]
    assert notes["Tiny ImageNet val"] == "measured by this zoo"
    assert data_key("ImageNet val (measured)") == "imagenet-val-measured"


def test_page_loads_nothing(html: str) -> None:
    page = Page(html)

    for tag, attributes in page.elements:
        for name, value in attributes.items():
            assert not name.startswith("on") and name != "style"
            assert name not in LOADING or value.startswith("data:image/"), (tag, name, value[:80])
        if tag != "a" and "href" in attributes:
            assert attributes["href"].startswith("data:"), tag
        assert tag not in ("iframe", "object", "embed", "base", "use")
    assert not re.search(
        r"url\(|@import|image-set", "".join(t for e, t in page.texts if e == "style")
    )
    scripts = "".join(text for element, text in page.texts if element == "script")
    assert not re.search(r"fetch\(|XMLHttp|import\(|innerHTML|WebSocket|sendBeacon|eval\(", scripts)
    (policy,) = [m["content"] for m in page.all("meta") if "http-equiv" in m]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy and "http" not in policy


def test_every_inner_link_leads_somewhere_and_ids_are_unique(html: str) -> None:
    page = Page(html)

    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(ids) == len(set(ids))
    inner = [a["href"][1:] for a in page.all("a") if a["href"].startswith("#")]
    assert inner and {*inner} <= {*ids}


def test_page_says_its_language_and_names_every_control(html: str) -> None:
    page = Page(html)

    assert page.all("html") == [{"lang": "en"}]
    assert len(re.findall(r"<label[^>]*>[^<]*<select", html)) == len(page.all("select")) == 4
    assert html.count("<label><input") == len(
        [i for i in page.all("input") if i["type"] == "radio"]
    )
    for attributes in page.all("svg"):
        assert "aria-label" in attributes or attributes["aria-hidden"] == "true"
    assert all(attributes["alt"] for attributes in page.all("img"))


def luminance(code: str) -> float:
    channels = [int(code[at : at + 2], 16) / 255 for at in (1, 3, 5)]
    red, green, blue = (
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels
    )
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def test_text_stands_out_from_its_ground_in_light_and_dark(html: str) -> None:
    light, dark = re.findall(r":root \{(.*?)\}", html, re.DOTALL)[:2]
    for theme in (light, dark):
        colours = dict(re.findall(r"--(\w+): (#\w{6});", theme))
        for text in ("ink", "muted", "link", "gn", "bcn"):
            for ground in ("paper", "raised"):
                pair = sorted((luminance(colours[text]), luminance(colours[ground])))
                assert (pair[1] + 0.05) / (pair[0] + 0.05) >= 4.5, (text, ground)


def test_same_zoo_gives_the_same_page(rows: list[Row], html: str) -> None:
    assert render(rows, Cards(default_cards())) == html


def test_speed_is_left_out_and_said_so_where_it_was_not_measured(html: str) -> None:
    assert "Speed was not measured for this page; <code>wszoo gallery --measure</code>" in html
    assert not re.search(r"images per second|Speed</th>|value=\"speed\"", html)


def test_measured_speed_is_shown_with_how_it_was_measured(rows: list[Row], small: Row) -> None:
    html = render(rows, Cards(None), SPEEDS)

    assert cells(html, small.name)["Speed"] == "123/s"
    assert cells(html, rows[0].name)["Speed"] == "–"
    assert "123 images/s (100 to 150) at 64 × 64" in html
    assert "1 thread (a processor); median of 3 rounds" in html
    assert f"Not measured: {len(rows) - 1} of {len(rows)}." in html
    assert 'value="speed"' in html and '"speed":123.4' in html and '"speed":null' in html


def test_speed_is_measured_in_turns_and_read_back(
    rows: list[Row], small: Row, tmp_path: Path
) -> None:
    turns: list[tuple[str, int]] = []

    def noting(iterable, total, label):  # type: ignore[no-untyped-def]
        assert (total, label) == (4, "speed")
        for turn in iterable:
            turns.append(turn)
            yield turn

    larger = replace(small, weights=None)
    speeds = measure([small, larger, small], rounds=2, progress=noting)
    write_speeds(speeds, tmp_path / "speed.json")

    there, back = turns[:2], turns[2:]
    assert there == [(small.model, 64), (small.model, 224)] and back == there[::-1]
    assert read_speeds(tmp_path / "speed.json") == speeds
    assert speeds.hardware.startswith("1 thread (")
    fast, slow = speeds.rows
    assert fast.images_per_second > slow.images_per_second
    assert fast.slowest <= fast.images_per_second <= fast.fastest
    assert speeds.find(small) == fast and speeds.find(rows[0]) is None


def test_speeds_in_the_package_are_of_nets_of_the_zoo_with_all_that_have_weights() -> None:
    speeds = read_speeds(PACKAGED)

    measured = {(speed.model, speed.pixels) for speed in speeds.rows}
    assert len(measured) == len(speeds.rows)
    assert measured >= {(weights.model, weights.input_size[-1]) for weights in WEIGHTS}
    assert {model for model, _ in measured} <= {row["model"] for row in list_rows()}
    assert speeds.hardware.startswith("1 thread (")


def test_seconds_are_counted_by_the_clock_that_is_given(small: Row) -> None:
    ticks = itertools.count()

    speeds = measure([small], rounds=1, clock=lambda: next(ticks), what="ticks")

    # It starts at 0, looks at 1 and 2, has two images at 3, and stops.
    assert (speeds.rows[0].images_per_second, speeds.what) == (0.667, "ticks")


def test_cards_of_an_installed_package_are_those_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "site-packages" / "wszoo"
    monkeypatch.setattr(card_folder, "__file__", str(package / "cards" / "folder.py"))
    assert default_cards() is None

    (package.parent / "model_cards").mkdir(parents=True)
    assert default_cards() == package.parent / "model_cards"  # of a checkout

    (package / "model_cards").mkdir(parents=True)
    assert default_cards() == package / "model_cards"


FACTS = '"what": "", "torch": "", "wszoo": "", "measured": "", "rounds": 1'
NET = '"model": "a", "pixels": 1, "slowest": 1, "fastest": 2'


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"rows": []}',
        f'{{{FACTS}, "hardware": 2, "rows": []}}',
        f'{{{FACTS}, "hardware": "", "rows": [{{{NET}}}]}}',
        f'{{{FACTS}, "hardware": "", "rows": [{{{NET}, "images_per_second": -1}}]}}',
        f'{{{FACTS}, "hardware": "", "rows": [{{{NET}, "images_per_second": 3}}]}}',
        f'{{{FACTS}, "hardware": "", "rows": [{{{NET}, "images_per_second": "1"}}]}}',
    ],
)
def test_a_file_without_speeds_is_refused(content: str, tmp_path: Path) -> None:
    path = tmp_path / "speed.json"
    path.write_text(content)

    with pytest.raises(ValueError, match=r"speed\.json holds no speeds; `wszoo gallery --measure`"):
        read_speeds(path)
    with pytest.raises(FileNotFoundError, match="there is no file .*gone; `wszoo gallery --mea"):
        read_speeds(tmp_path / "gone")


@pytest.mark.parametrize("has_weights", [True, False])
def test_code_runs_as_it_stands(
    has_weights: bool, small: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (80, 60), (180, 40, 40)).save("photo.jpg")
    shown = snippets(small if has_weights else replace(small, weights=None))

    for snippet in shown:
        if snippet.language == "python":
            exec(compile(snippet.code, snippet.title, "exec"), {})
    console = next(s.code for s in shown if s.language == "console").replace("\\\n", "")
    for line in console.splitlines():
        words = shlex.split(line)[1:]
        command, given = main.commands[words[0]], words[1:]
        if isinstance(command, Group):
            command, given = command.commands[given[0]], given[1:]
        if words[0] != "predict":  # of a run that is not there
            command.make_context(words[0], given)
    assert ("--random-weights" in console) is not has_weights


def test_code_fits_beside_each_other_on_a_desktop(rows: list[Row]) -> None:
    lines = [line for row in rows for s in snippets(row) for line in s.code.splitlines()]

    assert max(map(len, lines)) <= 88


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("test_resnet_gn_ws.e3_tin200", ""),
        ("resnet18_gn_ws.e14_tin200", "set WSZOO_WEIGHTS to its folder model_cards"),
        ("resnet18d_gn_ws", "no weights yet"),
        ("resnet50_gn_ws.jhu_in1k", "fetches the original from download.openmmlab.com and"),
        ("resnet50_gn_ws.jhu_in1k", "`wszoo confirm resnet50_gn_ws.jhu_in1k --data imagenet/val`"),
        ("resnet50_bcn_ws.jhu_in1k", "WSZOO_ACCEPT_UNVERIFIED=1"),
    ],
)
def test_what_has_to_be_done_before_weights_load_is_said(
    name: str, words: str, rows: list[Row]
) -> None:
    (row,) = [row for row in rows if row.name == name]

    assert words in access(row) and bool(words) == bool(access(row))


def test_card_is_on_the_page_with_its_pictures_in_it(rows: list[Row], html: str) -> None:
    name = "resnet18_gn_ws.e20_tin200"
    curves = (Path("model_cards") / name / "curves.png").resolve()
    if not curves.exists():
        curves = Path(__file__).parents[1] / "model_cards" / name / "curves.png"

    assert base64.b64encode(curves.read_bytes()).decode() in html
    assert "library_name: timm" not in html
    carded = {row.name for row in rows if Cards(default_cards()).has_card(row)}
    assert {name, "test_resnet_gn_ws.e3_tin200"} <= carded
    assert not any(row.name in carded for row in rows if row.weights is None)
    assert Cards(None).card(rows[0]) is None and Cards(None).benchmarks(rows[0]) == []


def test_benchmarks_of_the_model_are_shown(rows: list[Row], html: str, tmp_path: Path) -> None:
    assert "Ours over theirs, below 1 is better" in html
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks" / "broken.json").write_text("{")

    with pytest.raises(
        ValueError, match=r"broken\.json is no JSON; `wszoo bench -o DIR` writes it"
    ):
        Cards(tmp_path).benchmarks(rows[0])


def test_a_hostile_card_does_nothing(small: Row, tmp_path: Path) -> None:
    (tmp_path / "secret.png").write_bytes(b"secret")
    html = card_of(
        small,
        '<script>alert(1)</script>\n\n[a](javascript:alert(1)) ![b](http://evil.test/x.png "t)\n\n'
        "![c](../secret.png) ![d](http://evil.test/x.png) ![e](curves.svg)\n\n"
        '[f](https://good.test/?"onclick="x) <img src=x onerror=alert(1)>\n\n'
        '```"><script>\n</code></pre><script>\n```\n\n'
        '# <b>"&\n\n| <i> | a |\n| - | - |\n| <u> | b |\n',
        tmp_path,
    )
    page = Page(html)

    tags = {tag for tag, _ in page.elements}
    assert not tags & {"script", "img", "b", "i", "u", "iframe"}
    assert [a["href"] for a in page.all("a")] == [
        "http://evil.test/x.png",  # shown as a link, which nothing follows by itself
        'https://good.test/?"onclick="x',
    ]
    assert "&lt;script&gt;alert(1)&lt;/script&gt;" in html
    assert base64.b64encode(b"secret").decode() not in html


def test_a_hostile_record_does_nothing(small: Row) -> None:
    assert small.weights
    hostile = '</script><script>alert("1")</script>'
    weights = replace(small.weights, license=hostile, metrics={hostile: {"top1": 1.0}})
    html = render([replace(small, weights=weights)], Cards(None))

    assert hostile not in html
    assert len(Page(html).all("script")) == 4


def test_a_card_that_is_no_text_is_named(small: Row, tmp_path: Path) -> None:
    (tmp_path / small.name).mkdir()
    (tmp_path / small.name / "README.md").write_bytes(b"\xff\xfe")

    with pytest.raises(ValueError, match=r"README\.md is not UTF-8; render it again with `make ca"):
        Cards(tmp_path).card(small)


@pytest.mark.parametrize(
    ("text", "html"),
    [
        ("# a", "<h1>a</h1>"),
        ("#a", "<p>#a</p>"),
        ("a\nb\n\nc", "<p>a\nb</p>\n<p>c</p>"),
        ("a **b** *c* _d_ `e*f*`", "<p>a <strong>b</strong> <em>c</em> <em>d</em> "),
        ("snake_case_name 2*3*4", "<p>snake_case_name 2*3*4</p>"),
        (r"\*a\* `\*`", r"<p>*a* <code>\*</code></p>"),
        ("``a ` b``", "<p><code>a ` b</code></p>"),
        (
            "[a `b`](https://c.test/d_e)",
            '<p><a href="https://c.test/d_e" rel="noreferrer">a <code>',
        ),
        ("[a](b.md)", "<p>a</p>"),
        (
            "see https://a.test/b.",
            '<a href="https://a.test/b" rel="noreferrer">https://a.test/b</a>.',
        ),
        ("<https://a.test>", '<p><a href="https://a.test" rel="noreferrer">https://a.test</a></p>'),
        ("![a](b.png)", '<p><img src="data:b.png" alt="a" loading="lazy"></p>'),
        ("![a](no)", "<p><em>a</em></p>"),
        (
            "```python\na < b\n\n# c\n```\nd",
            '<pre tabindex="0" data-language="python"><code>a &lt; ',
        ),
        ("~~~\na", "<code>a</code></pre>"),
        ("| a | b |\n| --- | :-: |\n| `c` | d \\| e |", "<td><code>c</code></td><td>d | e</td>"),
        ("| | |\n| --- | --- |\n| c | d |", "<table><tbody><tr><td>c</td><td>d</td></tr></tbody>"),
        ("a | b\nc", "<p>a | b\nc</p>"),
        ("- a\n- b\n  c\n\nd", "<ul><li>a</li><li>b\nc</li></ul>\n<p>d</p>"),
        ("1. a\n   - b\n2. c", "<ol><li>a\n<ul><li>b</li></ul></li><li>c</li></ol>"),
        ("- a\n\n  b\n- c", "<ul><li><p>a</p>\n<p>b</p></li><li>c</li></ul>"),
        ("> a\n> - b", "<blockquote><p>a</p>\n<ul><li>b</li></ul></blockquote>"),
        ("***\n---", "<hr>\n<hr>"),
        ("a <!-- b\nc --> d", "<p>a  d</p>"),
        ("", ""),
    ],
)
def test_markdown_becomes_html(text: str, html: str) -> None:
    image = lambda address: f"data:{address}" if address != "no" else None  # noqa: E731

    assert html in to_html(text, image=image)
    Page(to_html(text, image=image))


def test_nesting_without_end_is_read_to_an_end() -> None:
    for text in (">" * 5000, "- " * 5000, "*" * 5000, "[" * 5000, "`" * 5001, "  " * 5000 + "- a"):
        Page(to_html(text, image=lambda _: None))


def test_headings_go_down_and_front_matter_goes_away() -> None:
    text = without_front_matter("---\na: b\n---\n# c\n###### d\n")

    assert to_html(text, image=lambda _: None, shift=2) == "<h3>c</h3>\n<h6>d</h6>"
    assert without_front_matter("a\n---\nb\n---\n") == "a\n---\nb\n---\n"


@pytest.mark.parametrize("values", [[5.0], [1.0, 100.0], [25.0, 26.0], [0.3, 99.9]])
def test_scales_keep_all_values_and_round_ticks_inside(values: Sequence[float]) -> None:
    for scale in (LogScale(values, 40, 400), LinearScale(values, 40, 400)):
        assert all(40 <= scale(value) <= 400 for value in [*values, *scale.ticks])
        assert scale.ticks == sorted({*scale.ticks})
    assert len(LinearScale(values, 40, 400).ticks) >= 2


def test_page_is_written_beside_nothing_foreign(rows: list[Row], tmp_path: Path) -> None:
    folder = tmp_path / "a" / "b"
    first = write_site(folder, rows, Cards(None), SPEEDS, measured=True)
    again = write_site(folder, rows[:1], Cards(None), None)

    assert first.bytes > again.bytes == (folder / "index.html").stat().st_size
    assert (first.models, first.with_weights, first.cards) == (len(rows), len(rows) - 1, 0)
    assert sorted(path.name for path in folder.iterdir()) == ["index.html", "speed.json"]
    (folder / "thesis.tex").touch()
    with pytest.raises(
        FileExistsError, match="holds 'thesis.tex', which is no gallery's; name a n"
    ):
        check_folder(folder)
    with pytest.raises(NotADirectoryError, match=r"thesis\.tex is a file; name a folder"):
        check_folder(folder / "thesis.tex")
