"""The look of our reports: black on white wherever they are read, system fonts, one column, and room to print."""

from __future__ import annotations

import re
from html import escape

STYLE = """\
:root { color-scheme: light; --ink: #20262e; --faint: #5f6873; --line: #dfe4ea; --accent: #2563b0; }
* { box-sizing: border-box; }
body { margin: 0; background: #fff; color: var(--ink); }
body { font: 15px/1.5 system-ui, -apple-system, "Segoe UI", sans-serif; }
main { max-width: 1140px; margin: 0 auto; padding: 28px 24px 60px; }
h1, h2, h3 { line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h1 { font-size: 30px; } h2 { font-size: 21px; } h3 { font-size: 18px; }
.kind { margin: 0 0 2px; color: var(--accent); font-size: 13px; font-weight: 600; }
* + header.run { margin-top: 64px; padding-top: 20px; border-top: 3px solid var(--ink); }
header.run h2 { font-size: 26px; }
.box { margin: 16px 0; padding: 10px 16px; border-left: 5px solid #9aa4b0; background: #f4f6f8; border-radius: 3px; }
.good { border-color: #2f8f5b; background: #eef8f2; }
.bad { border-color: #c0281c; background: #fdf0ee; }
.bad strong { color: #a01e13; }
.bad ul { margin: 4px 0 0; padding-left: 20px; }
.bad li { margin: 6px 0; }
dl, dd { margin: 0; }
small { display: block; color: var(--faint); font-size: 12.5px; font-weight: 400; }
.tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr)); gap: 1px; margin: 18px 1px; }
.tiles div { padding: 11px 14px; box-shadow: 0 0 0 1px var(--line); }
.tiles dt { color: var(--faint); font-size: 13px; }
.tiles dd { font-size: 22px; font-weight: 600; line-height: 1.25; font-variant-numeric: tabular-nums; }
details { margin: 18px 0 0; }
summary { cursor: pointer; font-weight: 600; }
.configuration { columns: 4 210px; column-gap: 28px; margin-top: 8px; font-size: 13px; }
.configuration div { display: flex; gap: 10px; justify-content: space-between; padding: 3px 0;
  border-bottom: 1px solid var(--line); break-inside: avoid; }
.configuration dt { color: var(--faint); }
.configuration dd { text-align: right; overflow-wrap: anywhere; }
.wide { overflow-x: auto; margin: 18px 0; }
table { border-collapse: collapse; width: 100%; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: 8px 14px 8px 0; border-bottom: 1px solid var(--line); }
tr:first-child th { border-bottom: 2px solid var(--ink); }
td small { display: inline; margin-left: 8px; }
th { font-weight: 600; }
th:first-child { width: 18%; }
.wide + h2, figure + h2 { margin-top: 40px; }
figure { margin: 44px 0 0; }
.drawing { overflow-x: auto; }
figure svg { display: block; width: 100%; min-width: 720px; height: auto; margin: 12px 0 8px; }
figure svg * { stroke-linejoin: round; stroke-linecap: butt; }
figure svg text { font-family: system-ui, -apple-system, "Segoe UI", sans-serif !important; }
.broad { width: calc(100vw - 64px); max-width: 1700px; position: relative; left: 50%; transform: translateX(-50%); }
.broad svg { min-width: 1480px; }
figcaption { color: var(--faint); font-size: 13.5px; max-width: 108ch; }
@media print {
  @page { margin: 14mm; }
  main { max-width: none; padding: 0; }
  figure, .box, .tiles { break-inside: avoid; }
  * + header.run { break-before: page; border-top: 0; margin-top: 0; }
  figure svg, .broad svg { min-width: 0; }
  .broad { width: 100%; left: 0; transform: none; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""


class Page:
    """The page's parts in order; figures get ids of their own, as SVGs in one page share their names."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self._figures = 0

    def add(self, html: str) -> None:
        self.parts.append(html)

    def figure(self, title: str, svg: str, caption: str, level: int, *, broad: bool = False) -> None:
        self._figures += 1
        svg = re.sub(r'(?<= id=")|(?<=href="#)|(?<=url\(#)', f"f{self._figures}-", svg)
        svg = svg.replace("<svg", f'<svg role="img" aria-label="{escape(title)}"', 1)
        heading = f"<h{level}>{escape(title)}</h{level}>"
        drawing = f'<div class="drawing{" broad" if broad else ""}">\n{svg}\n</div>'
        self.add(f"<figure>\n{heading}\n{drawing}\n<figcaption>{escape(caption)}</figcaption>\n</figure>")

    def document(self, title: str, generator: str) -> str:
        """The whole page; `generator` is the tag that tells whose it is."""
        return (
            f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n{generator}\n'
            '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
            f"<title>{escape(title)}</title>\n<style>\n{STYLE}</style>\n</head>\n<body>\n<main>\n"
            + "\n".join(self.parts)
            + "\n</main>\n</body>\n</html>\n"
        )
