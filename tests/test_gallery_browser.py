"""The gallery's page in a browser: what it shows, at which width, and what it does when touched."""

import json
import re
import shutil
import subprocess
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from wszoo.cards.folder import default_cards
from wszoo.gallery.cards import Cards
from wszoo.gallery.page import render
from wszoo.gallery.rows import Row, collect
from wszoo.gallery.snippets import snippets

pytestmark = pytest.mark.chromium
PHONE = 390  # pixels
BEST = "resnet18_gn_ws.e20_tin200"
# Reads what a reader of the screen would tell, after the page has done its work.
PROBE = """<script>
const told = {};
const tell = (key, value) => (told[key] = value);
addEventListener("load", async () => {
  const wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const seen = (selector) =>
    [...document.querySelectorAll(selector)].filter((element) => element.checkVisibility());
  const overflow = (element) => element.scrollWidth - element.clientWidth;
  await (async () => { %s })();
  top.postMessage(JSON.stringify(told), "*");
});
</script>"""
HEAR = """<script>
addEventListener("message", (event) => {
  const out = document.createElement("pre");
  out.id = "told";
  out.textContent = event.data;
  document.documentElement.append(out);
});
</script>"""


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [*collect("resnet18*"), *collect("resnet50_[bg]*"), *collect("test*")]


@pytest.fixture(scope="module")
def page(rows: list[Row], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("gallery") / "index.html"
    path.write_text(render(rows, Cards(default_cards())), encoding="utf-8")
    return path


def browse(page: Path, state: str = "", *flags: str) -> tuple[str, list[str]]:
    """The page after its script ran, and what the console said."""
    chromium = shutil.which("chromium")
    assert chromium
    command = [
        *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"),
        *("--disable-dev-shm-usage", "--enable-logging=stderr", "--virtual-time-budget=5000"),
        *(f"--user-data-dir={page.parent / 'profile'}", "--window-size=1280,900"),
        *(*flags, "--dump-dom", f"{page.as_uri()}#{state}"),
    ]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    console = [line for line in result.stderr.splitlines() if "CONSOLE" in line]
    return result.stdout, console


def probe(
    page: Path,
    code: str,
    state: str = "",
    *flags: str,
    width: int | None = None,
    scripts: bool = True,
) -> dict[str, Any]:
    """What ``code`` tells of a copy of the page that lets a foreign script run.

    With ``width`` the page is in a frame so wide, since windows of less than 500 pixels there are
    none.
    """
    html = page.read_text(encoding="utf-8")
    html = re.sub(r"<meta http-equiv=[^>]*>", "", html)
    if not scripts:
        html = re.sub(r"<script.*?</script>", "", html, flags=re.DOTALL)
    copy, frame = page.with_name("probed.html"), page.with_name("frame.html")
    html = html.replace("</body>", PROBE % code + ("" if width else HEAR) + "</body>")
    copy.write_text(html, encoding="utf-8")
    if width:
        inner = f'<iframe src="probed.html#{state}" width="{width}" height="844"></iframe>'
        frame.write_text(f"<!doctype html>{HEAR}{inner}", encoding="utf-8")
        dom, console = browse(frame, "", *flags)
    else:
        dom, console = browse(copy, state, *flags)
    found = re.search(r'<pre id="told">(.*?)</pre>', dom)
    assert console == []
    assert found, dom[-2000:]
    told: dict[str, Any] = json.loads(unescape(found[1]))
    return told


def shown_rows(dom: str) -> list[str]:
    return re.findall(r'<tr data-name="([^"]+)">', dom)


def points(dom: str) -> list[str]:
    svg = re.search(r'<div id="plot">(.*?)</svg>', dom, re.DOTALL)
    assert svg
    return re.findall(r'<a class="point [^"]*"[^>]*data-name="([^"]+)"', svg[1])


def test_address_chooses_data_axis_and_filters(page: Path, rows: list[Row]) -> None:
    dom, console = browse(page, "data=in1k&x=macs&norm=BCN")

    assert console == []
    assert 'data-x="macs" data-data="in1k"' in dom
    assert shown_rows(dom) == points(dom) == ["resnet50_bcn_ws.jhu_in1k"]
    assert f"1 of {len(rows)} models." in dom
    assert "multiply-accumulates of one image, billions" in dom


def test_without_an_address_all_models_are_shown_once(page: Path, rows: list[Row]) -> None:
    dom, console = browse(page, "data=nothing&x=beauty&model=resnet51&sort=%00")

    assert console == []
    names = [row.name for row in rows]
    assert shown_rows(dom) == names
    assert sorted(points(dom)) == sorted(names)
    assert 'data-x="params" data-data="tin200"' in dom
    assert "<dialog" in dom and not re.search(r"<dialog[^>]* open", dom)
    labels = re.findall(r'class="label"[^>]*>([^<]+)<', dom[dom.index('id="plot"') :])
    assert "test_resnet" in labels
    assert any(label.startswith("resnet18 e") for label in labels)  # two tags of one variant


@pytest.mark.slow
def test_order_and_weights_are_chosen_by_the_address(page: Path, rows: list[Row]) -> None:
    dom, _ = browse(page, "sort=top1&weights=1")

    trained = [row for row in rows if row.weights]
    ordered = sorted(trained, key=lambda row: -row.top1.get("tin200", -1))
    assert shown_rows(dom) == [row.name for row in ordered]
    assert 'aria-sort="descending"><button type="button">Top-1' in dom


def test_a_point_opens_its_panel_and_back_closes_it(page: Path, rows: list[Row]) -> None:
    told = probe(
        page,
        f"""
        const point = document.querySelector('a[data-name="{BEST}"]');
        point.dispatchEvent(new FocusEvent("focus"));
        tell("tip", document.querySelector(".tip").textContent);
        const before = history.length;
        point.dispatchEvent(new MouseEvent("click", {{ cancelable: true }}));
        const dialog = document.querySelector("dialog");
        const title = document.querySelector("#panel-title");
        tell("open", [dialog.open, location.hash, title.textContent]);
        tell("codes", dialog.querySelectorAll("pre").length === seen("dialog .copy").length);
        tell("card", dialog.querySelector(".card img").naturalWidth > 100);
        const clipboard = {{ writeText: async (text) => tell("clipboard", text) }};
        Object.defineProperty(navigator, "clipboard", {{ value: clipboard }});
        dialog.querySelector(".copy").click();
        await wait(10);
        tell("copied", dialog.querySelector(".copy").textContent);
        tell("entries", history.length - before);
        history.replaceState(null, "", location.pathname);  // where Back leads to
        dispatchEvent(new PopStateEvent("popstate"));
        tell("back", [dialog.open, location.hash, seen("dialog article").length]);
        document.querySelector("#models a").click();
        tell("again", dialog.open);
        document.querySelector("#close").click();
        tell("closed", [dialog.open, location.hash]);
        document.querySelector("#models a").click();
        dialog.dispatchEvent(new Event("cancel", {{ cancelable: true }}));  // the Escape key
        tell("escaped", [dialog.open, location.hash]);
        tell("home", document.querySelectorAll(".each article").length);
        """,
    )

    assert str(told["tip"]).startswith(f"{BEST}51.40 % on Tiny ImageNet val11.28 M0.3")
    assert told["open"] == [True, f"#model={BEST}", BEST]
    assert told["codes"] is told["card"] is True
    assert told["copied"] == "Copied"
    assert told["clipboard"] == snippets(next(row for row in rows if row.name == BEST))[0].code
    assert told["entries"] == 1
    assert told["back"] == [False, "", 0]
    assert told["again"] is True
    assert told["closed"] == told["escaped"] == [False, ""]
    assert told["home"] == len(rows)


@pytest.mark.slow
def test_controls_change_the_address_and_reset_it(page: Path, rows: list[Row]) -> None:
    told = probe(
        page,
        """
        const change = (selector, value) => {
          const control = document.querySelector(selector);
          if (value === undefined) return control.click();
          control.value = value;
          control.dispatchEvent(new Event("change", { bubbles: true }));
        };
        change('[name="norm"]', "GN");
        change('[name="weights"]');
        change('[value="macs"]');
        document.querySelector('[data-sort="params"] button').click();
        tell("hash", location.hash);
        tell("rows", seen("#models tbody tr").length);
        change('[name="family"]', "ResNet-D");
        tell("none", document.querySelector("#plot").textContent);
        document.querySelector('[type="reset"]').click();
        tell("reset", [location.hash, seen("#models tbody tr").length]);
        """,
        "licence=imagenet-research",
    )

    expected = "#x=macs&norm=GN&licence=imagenet-research&weights=1&sort=params"
    assert told["hash"] == expected
    trained_here = [w for row in rows if (w := row.weights) and w.license == "imagenet-research"]
    assert told["rows"] == len(trained_here)
    assert told["none"] == "No model matches these filters."
    assert told["reset"] == ["", len(rows)]


def test_a_phone_scrolls_in_one_direction_only(page: Path) -> None:
    told = probe(
        page,
        f"""
        tell("width", document.documentElement.clientWidth);
        tell("over", overflow(document.documentElement));
        tell("plot", document.querySelector("svg.plot").getBoundingClientRect().right);
        tell("cells", seen("#models td").filter((cell) => overflow(cell) > 0).length);
        const panels = [];
        for (const name of ["{BEST}", "resnet50_bcn_ws.jhu_in1k", "resnet18d_gn_ws"]) {{
          location.hash = `model=${{name}}`;
          await wait(100);
          const dialog = document.querySelector("dialog[open]");
          panels.push(overflow(dialog), dialog.clientWidth);
        }}
        tell("panels", panels);
        """,
        width=PHONE,
    )

    assert (told["width"], told["over"]) == (PHONE, 0)
    assert told["plot"] <= PHONE
    assert told["cells"] == 0
    assert told["panels"][::2] == [0, 0, 0]
    assert min(told["panels"][1::2]) > PHONE - 3


def test_without_script_there_are_plots_the_table_and_all_code(page: Path, rows: list[Row]) -> None:
    told = probe(
        page,
        f"""
        tell("over", overflow(document.documentElement));
        tell("controls", seen("form, .interactive, dialog, .copy").length);
        tell("rows", seen("#models tbody tr").length);
        tell("points", seen(".static a.point").length);
        location.hash = "model={BEST}";
        await wait(200);
        tell("opened", seen("article").map((article) => article.id));
        for (const details of document.querySelectorAll("details")) details.open = true;
        tell("codes", [seen("pre").length, document.querySelectorAll("article pre").length]);
        tell("over after", overflow(document.documentElement));
        """,
        width=PHONE,
        scripts=False,
    )

    assert (told["over"], told["over after"], told["controls"]) == (0, 0, 0)
    assert told["rows"] == len(rows)
    assert told["points"] == sum(len(row.top1) for row in rows)
    assert told["opened"] == [f"model={BEST}"]
    shown, there = told["codes"]
    assert shown == there >= 4 * len(rows)


@pytest.mark.slow
def test_the_page_is_dark_where_the_reader_wants_it_so(page: Path) -> None:
    code = 'tell("ground", getComputedStyle(document.body).backgroundColor);'

    told = probe(page, code, "", "--blink-settings=preferredColorScheme=0")

    assert told["ground"] == "rgb(19, 20, 22)"
