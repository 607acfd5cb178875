"""How the page looks: one style sheet, without fonts, scripts or pictures from elsewhere."""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfaf8; --card: #ffffff; --ink: #1d2027; --quiet: #646a76; --line: #e2dfd9;
  --accent: #6a3fb5; --good: #1d7a46; --bad: #a8501a; --chip: #f0ecf7;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #101116; --card: #191b22; --ink: #e7e8ec; --quiet: #9aa1af; --line: #2c2f39;
    --accent: #bb9bf2; --good: #6fd09a; --bad: #eda06a; --chip: #272433;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink); overflow-wrap: anywhere;
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans", sans-serif;
}
main, header, footer { max-width: 76rem; margin: 0 auto; padding: 0 1.25rem; }
header { padding-top: 2.5rem; }
h1 { font-size: clamp(1.8rem, 5vw, 2.6rem); line-height: 1.15; margin: 0 0 .5rem; }
h2 { font-size: 1.45rem; margin: 0 0 .4rem; line-height: 1.25; }
h3 { font-size: 1.02rem; margin: 0; }
p { margin: 0 0 .8rem; max-width: 46rem; }
a { color: var(--accent); }
.lead { font-size: 1.08rem; color: var(--quiet); }
nav ul {
  list-style: none; padding: 0; margin: 1.2rem 0 0; display: flex; flex-wrap: wrap; gap: .5rem;
}
nav a {
  display: block; padding: .3rem .85rem; border-radius: 2rem; background: var(--chip);
  text-decoration: none; font-size: .93rem;
}
section { padding: 2.2rem 0 0; margin-top: 2.2rem; border-top: 1px solid var(--line); }
.cards { display: grid; gap: 1.1rem; margin-top: 1.1rem; grid-template-columns: minmax(0, 1fr); }
@media (min-width: 60rem) {
  .cards { grid-template-columns: repeat(2, minmax(0, 1fr)); }
  .wide { grid-column: 1 / -1; }
  .wide .recordings { grid-template-columns: repeat(2, minmax(0, 1fr)); }
}
article, .curves figure {
  background: var(--card); border: 1px solid var(--line); border-radius: .8rem;
  padding: 1rem 1.1rem;
}
.labels {
  display: flex; flex-wrap: wrap; gap: .15rem 1.1rem; margin: .25rem 0 0; font-size: .9rem;
}
.labels div { display: flex; gap: .4rem; }
.labels dt { color: var(--quiet); }
.labels dd { margin: 0; }
.recordings { display: grid; gap: 1rem; grid-template-columns: minmax(0, 1fr); }
figure { margin: .8rem 0 0; }
figcaption { font-size: .88rem; color: var(--quiet); margin-bottom: .35rem; }
audio { width: 100%; display: block; height: 2.6rem; }
img { display: block; width: 100%; height: auto; }
.recordings img { border-radius: .45rem; margin-top: .5rem; }
.note { margin: .6rem 0 0; font-size: .92rem; color: var(--bad); }
.verdict { border-left: 3px solid var(--quiet); padding: .1rem 0 .1rem .9rem; }
.verdict.good { border-color: var(--good); }
.verdict.bad { border-color: var(--bad); }
.curves {
  display: grid; gap: 1rem;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 26rem), 1fr));
}
.curves figure { margin: 0; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
caption {
  text-align: left; font-size: .88rem; color: var(--quiet); font-weight: 600;
  padding: 1.4rem 0 .4rem;
}
th, td { text-align: right; padding: .35rem 1.1rem .35rem 0; border-bottom: 1px solid var(--line); }
th { font-weight: 600; }
td { white-space: nowrap; }
th:first-child { text-align: left; overflow-wrap: normal; }
thead th { color: var(--quiet); font-weight: 500; }
.settings td { text-align: left; white-space: normal; }
details { margin-top: 1rem; font-size: .93rem; }
summary { cursor: pointer; color: var(--accent); }
.lyrics { white-space: pre-wrap; margin: .5rem 0 0; max-height: 20rem; overflow: auto; }
footer { padding: 2.5rem 1.25rem 3rem; color: var(--quiet); font-size: .88rem; }
"""
