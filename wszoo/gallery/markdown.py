"""Model cards as HTML: the Markdown that cards use, and nothing that a card could do harm with.

All text is escaped, HTML in a card is shown as text, links lead to the web only, and pictures are
what the caller makes of them. Read are headings, paragraphs, fenced code, tables, lists, quotes,
rules, emphasis, code, links and images.
"""

import re
from collections.abc import Callable
from html import escape

Image = Callable[[str], str | None]  # from the address in the card to one for the page
_DEEPEST = 6  # quotes and lists within each other
_INLINE = re.compile(
    r"\\(?P<escaped>[!-/:-@\[-`{-~])"
    r"|(?P<ticks>`+)(?P<code>[^`]|[^`].*?[^`])(?P=ticks)(?!`)"
    r"|!\[(?P<alt>[^\]]*)\]\((?P<source>[^()\s]+)\)"
    r"|\[(?P<text>[^\[\]]+)\]\((?P<target>[^()\s]+(?:\([^()\s]*\))?)\)"
    r"|<(?P<address>https?://[^<>\s]+)>"
    r"|(?P<bare>https?://[^\s<>()\[\]`|]*[^\s<>()\[\]`|.,;:!?'\"*_])"
    r"|\*\*(?P<strong>[^\s*](?:[^*]*[^\s*])?)\*\*"
    r"|(?<![\w*])\*(?P<star>[^\s*](?:[^*]*[^\s*])?)\*(?!\w)"
    r"|(?<!\w)_(?P<line>[^\s_](?:[^_]*[^\s_])?)_(?!\w)",
    re.DOTALL,
)
_FENCE = re.compile(r"(?P<marks>`{3,}|~{3,})\s*(?P<language>[\w+-]*)[^`]*$")
_HEADING = re.compile(r"(?P<marks>#{1,6})\s+(?P<text>.*?)\s*#*$")
_RULE = re.compile(r"([-*_])(\s*\1){2,}\s*$")
_ITEM = re.compile(r"(?P<indent> {0,3})(?P<mark>[-*+]|\d{1,9}[.)])(?P<gap>\s+)(?P<text>.*)$")
_DELIMITERS = re.compile(r"\|?\s*:?-+:?\s*(\|\s*:?-+:?\s*)*\|?\s*$")
_CELL_EDGE = re.compile(r"(?<!\\)\|")
_COMMENT = re.compile(r"<!--.*?-->", re.DOTALL)


def without_front_matter(text: str) -> str:
    """The card after the YAML between its first two lines of three dashes, if it begins so."""
    match = re.match(r"---\n.*?\n---\n", text, re.DOTALL)
    return text[match.end() :] if match else text


def to_html(text: str, *, image: Image, shift: int = 0) -> str:
    """HTML of a Markdown text.

    Args:
        text: Without front matter.
        image: Gives the address that an image has on the page; None leaves its description alone.
        shift: Levels that headings go down by.
    """
    lines = _COMMENT.sub("", text).expandtabs(4).splitlines()
    return _Renderer(image, shift).blocks(lines, depth=0)


class _Renderer:
    def __init__(self, image: Image, shift: int) -> None:
        self.image = image
        self.shift = shift

    def blocks(self, lines: list[str], depth: int) -> str:
        parts: list[str] = []
        at = 0
        while at < len(lines):
            if not lines[at].strip():
                at += 1
                continue
            for read in (self._fence, self._heading, self._rule, self._table, self._nested):
                part, taken = read(lines[at:], depth)
                if taken:
                    break
            else:
                part, taken = self._paragraph(lines[at:], depth)
            parts.append(part)
            at += taken
        return "\n".join(parts)

    def _fence(self, lines: list[str], depth: int) -> tuple[str, int]:
        match = _FENCE.match(lines[0])
        if not match:
            return "", 0
        end = next(
            (n for n, line in enumerate(lines[1:], 1) if line.strip() == match["marks"]), len(lines)
        )
        return code_block("\n".join(lines[1:end]), match["language"]), min(end + 1, len(lines))

    def _heading(self, lines: list[str], depth: int) -> tuple[str, int]:
        match = _HEADING.match(lines[0])
        if not match:
            return "", 0
        level = min(6, len(match["marks"]) + self.shift)
        return f"<h{level}>{self.inline(match['text'])}</h{level}>", 1

    def _rule(self, lines: list[str], depth: int) -> tuple[str, int]:
        return ("<hr>", 1) if _RULE.match(lines[0]) else ("", 0)

    def _table(self, lines: list[str], depth: int) -> tuple[str, int]:
        is_table = len(lines) > 1 and "|" in lines[0] and _DELIMITERS.match(lines[1])
        if not is_table or len(_cells(lines[0])) != len(_cells(lines[1])):
            return "", 0
        end = next((n for n, line in enumerate(lines) if "|" not in line), len(lines))
        heads = _cells(lines[0])
        body = "".join(
            f"<tr>{''.join(f'<td>{self.inline(cell)}</td>' for cell in _cells(line))}</tr>"
            for line in lines[2:end]
        )
        head = "".join(f'<th scope="col">{self.inline(cell)}</th>' for cell in heads)
        head = f"<thead><tr>{head}</tr></thead>" if any(heads) else ""
        return f'<div class="scroll"><table>{head}<tbody>{body}</tbody></table></div>', end

    def _nested(self, lines: list[str], depth: int) -> tuple[str, int]:
        if depth >= _DEEPEST:
            return "", 0
        if lines[0].startswith(">"):
            end = next((n for n, line in enumerate(lines) if not line.startswith(">")), len(lines))
            inner = [re.sub(r"^> ?", "", line) for line in lines[:end]]
            return f"<blockquote>{self.blocks(inner, depth + 1)}</blockquote>", end
        return self._list(lines, depth) if _ITEM.match(lines[0]) else ("", 0)

    def _list(self, lines: list[str], depth: int) -> tuple[str, int]:
        is_ordered = _ordered(lines[0])
        items: list[list[str]] = []
        at = width = 0
        while at < len(lines):
            match = _ITEM.match(lines[at])
            if match and (not items or len(match["indent"]) < width):
                if _ordered(lines[at]) != is_ordered or _RULE.match(lines[at]):
                    break
                width = len(match["indent"] + match["mark"] + match["gap"])
                items.append([match["text"]])
            elif not lines[at].strip():
                following = lines[at + 1] if at + 1 < len(lines) else ""
                if not (following.startswith(" " * width) or _ITEM.match(following)):
                    break
                items[-1].append("")
            elif lines[at].startswith(" " * width):
                items[-1].append(lines[at][width:])
            elif lines[at - 1].strip() and not _starts_block(lines[at]):
                items[-1].append(lines[at].strip())
            else:
                break
            at += 1
        tag = "ol" if is_ordered else "ul"
        inner = "".join(f"<li>{self._item(item, depth)}</li>" for item in items)
        return f"<{tag}>{inner}</{tag}>", at

    def _item(self, lines: list[str], depth: int) -> str:
        while lines and not lines[-1]:
            lines = lines[:-1]
        inner = self.blocks(lines, depth + 1)
        if "" in lines or not inner.startswith("<p>"):
            return inner
        return inner.replace("<p>", "", 1).replace("</p>", "", 1)  # a tight list

    def _paragraph(self, lines: list[str], depth: int) -> tuple[str, int]:
        end = next(
            (n for n, line in enumerate(lines[1:], 1) if not line.strip() or _starts_block(line)),
            len(lines),
        )
        text = "\n".join(line.strip() for line in lines[:end])
        return f"<p>{self.inline(text)}</p>", end

    def inline(self, text: str) -> str:
        parts: list[str] = []
        at = 0
        for match in _INLINE.finditer(text):
            parts += [escape(text[at : match.start()]), self._span(match)]
            at = match.end()
        return "".join(parts) + escape(text[at:])

    def _span(self, match: re.Match[str]) -> str:
        found = {name: group for name, group in match.groupdict().items() if group is not None}
        match found:
            case {"escaped": character}:
                return escape(character)
            case {"code": code}:
                return f"<code>{escape(code.replace(chr(10), ' ').strip())}</code>"
            case {"alt": alt, "source": source}:
                address = self.image(source)
                if address is None:
                    return f"<em>{escape(alt)}</em>"
                return f'<img src="{escape(address)}" alt="{escape(alt)}" loading="lazy">'
            case {"text": text, "target": target}:
                return link(target, self.inline(text))
            case {"address": address} | {"bare": address}:
                return link(address, escape(address))
            case {"strong": text}:
                return f"<strong>{self.inline(text)}</strong>"
            case {"star": text} | {"line": text}:
                return f"<em>{self.inline(text)}</em>"
        raise AssertionError(found)


def code_block(code: str, language: str = "") -> str:
    """A block of code that the page's script gives a button to copy it with."""
    of_language = f' data-language="{escape(language)}"' if language else ""
    return f'<pre tabindex="0"{of_language}><code>{escape(code)}</code></pre>'


def link(target: str, inner: str) -> str:
    """A link if it leads to the web; only its text if it leads anywhere else.

    Args:
        target: Not escaped.
        inner: HTML.
    """
    if not re.match(r"https?://", target):
        return inner
    return f'<a href="{escape(target)}" rel="noreferrer">{inner}</a>'


def _cells(line: str) -> list[str]:
    cells = _CELL_EDGE.split(line.strip().removeprefix("|"))
    if len(cells) > 1 and not cells[-1].strip():
        cells.pop()
    return [cell.strip().replace("\\|", "|") for cell in cells]


def _ordered(line: str) -> bool:
    return line.lstrip()[0].isdigit()


def _starts_block(line: str) -> bool:
    patterns = (_FENCE, _HEADING, _RULE, _ITEM)
    return line.startswith(">") or any(pattern.match(line) for pattern in patterns)
