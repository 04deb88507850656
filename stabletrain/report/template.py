"""The page's frame: HTML, style and the little script, filled by `page`. Everything inserted is escaped."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --faint: #57606a; --page: #f4f5f7; --card: #ffffff; --line: #d9dde2;
  --good: #00664a; --warn: #8a4b00; --bad: #b3001b; --code: #eef0f3; }
@media (prefers-color-scheme: dark) { :root { --ink: #e8eaed; --faint: #a8b0ba; --page: #16191d; --card: #21262c;
  --line: #3a424b; --good: #4cd1a4; --warn: #ffb454; --bad: #ff8a95; --code: #2c333b; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem; max-width: 76rem; background: var(--page); color: var(--ink);
  font: 16px/1.5 system-ui, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 2.4rem; line-height: 1.15; margin: 0.2rem 0; }
h2 { font-size: 1.3rem; margin: 0 0 0.6rem; }
section, header { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 1.2rem 1.4rem;
  margin-bottom: 1.2rem; }
header { border-left: 10px solid var(--line); }
header.good { border-left-color: var(--good); } header.good h1 { color: var(--good); }
header.warning { border-left-color: var(--warn); } header.warning h1 { color: var(--warn); }
header.critical { border-left-color: var(--bad); } header.critical h1 { color: var(--bad); }
.lead { font-size: 1.15rem; margin: 0.3rem 0; } .faint { color: var(--faint); }
table { border-collapse: collapse; }
th, td { text-align: left; padding: 0.25rem 1.2rem 0.25rem 0; vertical-align: top; }
th { white-space: nowrap; font-weight: 500; color: var(--faint); }
td.number { text-align: right; font-variant-numeric: tabular-nums; }
code, pre { font-family: ui-monospace, "DejaVu Sans Mono", Consolas, monospace; font-size: 0.9em; }
pre { background: var(--code); border-radius: 6px; padding: 0.5rem 0.8rem; margin: 0.3rem 0; white-space: pre-wrap;
  user-select: all; }
.columns { display: grid; grid-template-columns: 1fr 2fr; gap: 1.2rem; }
@media (max-width: 48rem) { .columns { grid-template-columns: 1fr; } }
.columns > section { margin-bottom: 0; } .columns { margin-bottom: 1.2rem; }
.finding { border-top: 1px solid var(--line); padding: 0.8rem 0; } .finding:first-of-type { border-top: 0; }
.finding p { margin: 0.3rem 0; } .finding h3 { margin: 0; font-size: 1.05rem; }
.critical > h3 { color: var(--bad); } .warning > h3 { color: var(--warn); }
img { max-width: 100%; height: auto; border-radius: 6px; background: #ffffff; display: block; }
figure { margin: 0; } figcaption { color: var(--faint); font-size: 0.9rem; }
.wide img { max-width: 56rem; width: 100%; }
.frames { display: grid; grid-template-columns: repeat(auto-fit, minmax(18rem, 1fr)); gap: 1rem; }
.frames figure { display: none; } .frames figure.key { display: block; }
.slider { display: none; }
.scripted .slider { display: flex; gap: 1rem; align-items: center; margin: 0.6rem 0; }
.slider input { flex: 1; max-width: 40rem; accent-color: var(--good); }
@media screen { .scripted .frames { display: block; } .scripted .frames figure { display: none; max-width: 56rem; }
  .scripted .frames figure.shown { display: block; } }
summary { cursor: pointer; }
@media print { :root { --ink: #000; --faint: #444; --page: #fff; --card: #fff; --line: #bbb; --good: #00664a;
  --warn: #8a4b00; --bad: #b3001b; --code: #f2f2f2; }
  body { padding: 0; max-width: none; font-size: 11pt; } .scripted .slider { display: none; }
  section, header { border-radius: 0; break-inside: avoid-page; } .long { break-inside: auto; }
  .frames { grid-template-columns: repeat(3, 1fr); } }
"""

SCRIPT = """
(function () {
  var box = document.getElementById("ridges");
  if (!box) return;
  var frames = Array.prototype.slice.call(box.querySelectorAll("figure"));
  if (frames.length < 2) return;
  var input = box.querySelector("input"), output = box.querySelector("output");
  function show() {
    frames.forEach(function (frame, k) { frame.classList.toggle("shown", k === Number(input.value)); });
    output.textContent = frames[Number(input.value)].dataset.label;
  }
  input.max = frames.length - 1;
  input.value = frames.length - 1;
  input.addEventListener("input", show);
  box.classList.add("scripted");
  show();
})();
"""

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{{ policy }}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{ heading }} – {{ name }}</title>
<style>{{ style|safe }}</style>
</head>
<body>
<header class="{{ mood }}">
<div class="faint">{{ name }}</div>
<h1>{{ sign }} {{ heading }}</h1>
<p class="lead">{{ sentence }}</p>
{% if headline %}<p class="lead"><strong>What to do:</strong> {{ headline.advice }}</p>
{% for command in headline.commands[:1] %}<pre>{{ command }}</pre>{% endfor %}{% endif %}
<p class="faint">{{ status }}</p>
</header>

<div class="columns">
<section>
<h2>Result</h2>
{% if metrics %}<table>
{% for key, value in metrics %}<tr><th scope="row">{{ key }}</th><td class="number">{{ value }}</td></tr>
{% endfor %}</table>{% else %}<p class="faint">No metric was recorded.</p>{% endif %}
</section>
<section>
<h2>The run</h2>
{% if facts or link %}<table>
{% for key, value in facts %}<tr><th scope="row">{{ key }}</th><td>{{ value }}</td></tr>
{% endfor %}{% if link %}<tr><th scope="row">MLflow</th>
<td><a href="{{ link }}" rel="noreferrer" target="_blank">open this run</a></td></tr>
{% endif %}</table>{% else %}<p class="faint">The record does not say what was run.</p>{% endif %}
{% if command %}<p class="faint">Command:</p><pre>{{ command }}</pre>{% endif %}
</section>
</div>

<section class="long">
<h2>Findings</h2>
{% if not findings %}<p>{{ nothing_found }}</p>{% endif %}
{% for finding in findings %}
{% if loop.index == shown + 1 %}<details><summary>{{ findings|length - shown }} more</summary>{% endif %}
<article class="finding {{ finding.severity }}">
<h3>{{ finding.sign }} {{ finding.heading }}</h3>
<p class="faint">{{ finding.severity }} · {{ finding.where }} · {{ finding.steps }}{% if finding.evidence %}
 · {{ finding.evidence }}{% endif %}</p>
<p>{{ finding.advice }}{% if finding.commands %} {{ "Try:" if finding.commands|length == 1 else "Try, best first:" }}
{% endif %}</p>
{% for command in finding.commands %}<pre>{{ command }}</pre>
{% endfor %}
</article>
{% endfor %}
{% if findings|length > shown %}</details>{% endif %}
</section>

{% for picture in pictures %}
<section>
<h2>{{ picture.heading }}</h2>
<p>{{ picture.reading }}</p>
<figure class="wide"><img src="{{ picture.source }}" alt="{{ picture.alt }}"></figure>
</section>
{% endfor %}

{% if frames %}
<section id="ridges">
<h2>The gradient inside each layer</h2>
<p>One hill per layer, input at the top, output at the bottom; further left means smaller gradients.
Hills that stand one below the other are healthy; a line that leans left towards the top is vanishing, one that
runs off to the right exploding.</p>
<div class="slider"><label for="frame">Time</label><input id="frame" type="range" min="0" step="1">
<output for="frame"></output></div>
<div class="frames">
{% for frame in frames %}<figure class="{{ 'key' if frame.key else '' }}" data-label="{{ frame.label }}">
<img src="{{ frame.source }}" alt="{{ frame.alt }}"><figcaption>{{ frame.label }}</figcaption></figure>
{% endfor %}</div>
</section>
{% endif %}

{% if parameters or versions %}<section class="long">
<details><summary>All settings and versions</summary>
<table>
{% for key, value in parameters + versions %}<tr><th scope="row">{{ key }}</th><td><code>{{ value }}</code></td></tr>
{% endfor %}</table></details>
</section>{% endif %}
<script>{{ script|safe }}</script>
</body>
</html>
"""
