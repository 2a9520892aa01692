"""Foreign text in Markdown is shown and not interpreted."""

from __future__ import annotations

import pytest

from hbt_ray.markdown import block, code, inline

HOSTILE = [
    "# heading",
    "a | b",
    "[x](http://evil)",
    "<img src=x onerror=y>",
    "`code`",
    "**bold**",
    "a\n- item",
    "&lt;",
    "![i](u)",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_renderer_gives_the_text_back(text: str) -> None:
    rendered = pytest.importorskip("markdown_it").MarkdownIt("commonmark").enable("table")
    shown = text.replace("\n", "\\n")
    plain = {"&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;"}
    expected = "".join(plain.get(character, character) for character in shown)
    assert rendered.render(f"x {inline(text)} y") == f"<p>x {expected} y</p>\n"
    assert rendered.render(f"x {code(text)} y") == f"<p>x <code>{expected}</code> y</p>\n"
    assert rendered.render(f"| a |\n|---|\n| {inline(text)} |").count("<td>") == 1
    assert rendered.render(block(f"before\n```\n{text}")).startswith("<pre><code>before\n```\n")


def test_control_characters_are_written_out() -> None:
    assert inline("#") == "\\#"
    assert code("") == "(empty)"
    assert inline("a\u202eb\x1b[2J") == "a\\\\u202eb\\\\x1b\\[2J"
