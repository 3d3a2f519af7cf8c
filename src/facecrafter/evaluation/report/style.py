"""How the page looks, and its one script, which sorts a table by the heading that is pressed."""

from __future__ import annotations

# Of a page, and of a chart by itself.
CHARTS = """
:root { color-scheme: light dark; --paper: #ffffff; --ink: #1b1f24; --quiet: #59636e; --rule: #d1d9e0; --soft: #f3f5f7;
  --accent: #2f7fc1; }
@media (prefers-color-scheme: dark) {
  :root { --paper: #14171c; --ink: #e6e9ed; --quiet: #9da7b3; --rule: #3a424c; --soft: #1e232a; }
}
.chart text { font: 12px system-ui, sans-serif; fill: var(--ink); }
.chart .strong { font-weight: 700; }
.grid { stroke: var(--rule); stroke-width: 1; fill: none; }
.zero { stroke: var(--quiet); stroke-width: 1; fill: none; }
.ideal { stroke: var(--quiet); stroke-dasharray: 4 4; fill: none; }
.whisker { stroke: var(--ink); stroke-width: 1.5; fill: none; }
.bar { fill: var(--c); opacity: .8; }
.band { fill: var(--c); opacity: .15; }
.line { stroke: var(--c); stroke-width: 2; fill: none; }
.mark { fill: var(--c); stroke: var(--paper); stroke-width: .75; }
.c0 { --c: #2f7fc1; } .c1 { --c: #d9730d; } .c2 { --c: #2e9e5b; } .c3 { --c: #a566c9; }
.c4 { --c: #d64545; } .c5 { --c: #16969e; } .c6 { --c: #d1589a; } .c7 { --c: #8a8a1f; }
"""

PAGE = """
* { box-sizing: border-box; }
body { margin: 0; background: var(--paper); color: var(--ink); font: 16px/1.5 system-ui, sans-serif; }
header, main { max-width: 72rem; margin: 0 auto; padding: 0 1rem; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; margin: 1.5rem 0 .5rem; }
h2 { font-size: 1.3rem; margin: 2.5rem 0 .5rem; padding-top: .5rem; border-top: 1px solid var(--rule); }
h3 { font-size: 1.05rem; margin: 1.5rem 0 .5rem; }
a { color: inherit; }
nav ul, .legend { display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; padding: 0; list-style: none; }
.skip { position: absolute; left: -100vw; }
.skip:focus { left: 1rem; top: 1rem; background: var(--paper); padding: .5rem; }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.quiet, caption, figcaption { color: var(--quiet); font-size: .9rem; }
.notice { border-left: 4px solid #d64545; background: var(--soft); padding: .5rem 1rem; }
.wide { overflow-x: auto; margin: .75rem 0; }
table { border-collapse: collapse; overflow-wrap: break-word; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: .25rem; }
th, td { border-bottom: 1px solid var(--rule); padding: .3rem .6rem; text-align: right; vertical-align: top; }
th:first-child, td:first-child { text-align: left; }
thead th { vertical-align: bottom; background: var(--soft); }
tbody th, .name { min-width: 8rem; max-width: 18rem; overflow-wrap: anywhere; }
tbody th { font-weight: 600; }
td small { display: block; color: var(--quiet); white-space: nowrap; }
thead button { all: unset; cursor: pointer; text-decoration: underline dotted; }
thead button:focus-visible { outline: 3px solid var(--accent); }
th[aria-sort=ascending] button::after { content: " \\25B4"; }
th[aria-sort=descending] button::after { content: " \\25BE"; }
.better { font-weight: 700; }
.worse { font-style: italic; }
.plates { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 27rem), 1fr)); gap: 1rem; }
.chart { width: 100%; max-width: 44rem; height: auto; display: block; }
figure { margin: 0 0 1rem; min-width: 0; break-inside: avoid; }
.legend li { display: flex; gap: .4rem; align-items: center; }
.legend svg { flex: none; }
.shade { background: color-mix(in srgb, var(--accent) calc(var(--share) * 55%), var(--paper)); min-width: 5rem; }
.asked { box-shadow: inset 0 0 0 2px var(--ink); }
.cases tbody td, .cases thead th { text-align: center; padding: .2rem; }
.cases img { display: block; margin: 0 auto; width: 112px; height: auto; }
.lacking { display: grid; place-items: center; width: 112px; height: 112px; margin: 0 auto; color: var(--quiet);
  border: 1px dashed var(--quiet); font-size: .8rem; }
pre { background: var(--soft); padding: .75rem; overflow-x: auto; font-size: .85rem; }
dl { display: grid; grid-template-columns: minmax(6rem, max-content) 1fr; gap: .1rem 1rem; }
dt { color: var(--quiet); }
dd { margin: 0; min-width: 0; }
@page { size: A4 landscape; margin: 12mm; }
@media print {
  :root { color-scheme: light; --paper: #ffffff; --ink: #000000; --quiet: #444444; --rule: #bbbbbb; --soft: #f3f5f7; }
  body { font-size: 9pt; }
  header, main { max-width: none; padding: 0; }
  nav, .skip { display: none; }
  .wide, pre { overflow: visible; }
  pre { white-space: pre-wrap; }
  table { max-width: 100%; }
  th, td { padding: .15rem .3rem; }
  td small { white-space: normal; }
  thead button { text-decoration: none; }
  h2, h3 { break-after: avoid; }
  tr, img { break-inside: avoid; }
  .cases img, .lacking { width: 2.2cm; }
  .lacking { height: 2.2cm; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

SCRIPT = """
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  Array.from(table.tHead.rows[0].cells).forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.title = "Sort by this column";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const down = heading.getAttribute("aria-sort") === "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", down ? "descending" : "ascending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const compare = (one, other) => {
        if (one === "" || other === "") return (one === "") - (other === "");
        const order = isNaN(one) || isNaN(other) ? one.localeCompare(other) : one - other;
        return down ? -order : order;
      };
      body.append(...Array.from(body.rows).sort((one, other) => compare(value(one), value(other))));
    });
  });
}
"""
