"""Makes the pictures of the pages from a real run: `python docs/pictures.py RUN`, with Chromium and its driver installed.

`python docs/pictures.py line/line.csv` makes that of *From MNIST to a searched network*, without a browser. Each picture is made
twice, NAME-light and NAME-dark, as a page's colours may differ from those that the reader's system asks for.
"""

import base64
import io
import re
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pandas as pd
from optuna.distributions import BaseDistribution, CategoricalDistribution
from PIL import Image
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.wait import WebDriverWait

import nas
from experiments.line.picture import draw_line

FOLDER = Path(__file__).parent / "pictures"
SCHEMES = {"light": ("#1f2328", "#ffffff"), "dark": ("#e6edf3", "#0d1117")}  # text and ground, as on GitHub
LAYER = "layer "
SHOWN = {  # space → the reference that its picture shows
    "mnasnet": "mnasnet_100",
    "mobilenetv3": "mobilenetv3_large_100",
    "mobilenetv4": "mobilenetv4_conv_medium",
    "efficientnet": "efficientnet_b0",
    "compound": "efficientnet_b0",
}
FONT = "system-ui,-apple-system,'Segoe UI',Roboto,'Liberation Sans',sans-serif"
FLOW = (  # name, what it is, fill
    ("experiment", ("space, dataset,", "objectives, limits"), "#8cc8ee"),
    ("sampler", ("proposes", "a network"), "#f0b64a"),
    ("limits", ("feasible, and", "no duplicate?"), "#f0b64a"),
    ("trial", ("builds, trains,", "measures"), "#f0b64a"),
    ("log", ("a line a trial,", "whatever happened"), "#8cc8ee"),
)
RESULTS = (("table", "pandas DataFrame"), ("page", "one HTML file"), ("export", "PyTorch, timm, ONNX"))


def draw_table(csv: Path) -> None:
    """Makes the picture of the line, from the table of `python -m experiments.line`."""
    write_svg("line", without_scheme(draw_line(pd.read_csv(csv))))


def draw_run(run: Path) -> None:
    """Makes every other picture."""
    FOLDER.mkdir(exist_ok=True)
    for space, reference in SHOWN.items():
        write_svg(f"space-{space}", with_choices(nas.draw(nas.reference(reference)), nas.space(space).parameters))
    write_svg("flow", flow())
    with tempfile.TemporaryDirectory() as folder:
        page = nas.write_report(run, Path(folder) / "page.html")
        for scheme in SCHEMES:
            front = Path(folder) / f"front-{scheme}.html"
            front.write_text(front_page(run, scheme), encoding="utf-8")
            with browser(scheme) as driver:
                screenshot(driver, front, f"front-{scheme}", "body", (1240, 720))
                screenshot(driver, page, f"page-{scheme}", None, (1280, 1130))
                screenshot(driver, page, f"curves-{scheme}", "#curves", (1000, 900))


def write_svg(name: str, svg: str) -> None:
    """Writes a drawing with the text of each scheme."""
    for scheme, (text, _) in SCHEMES.items():
        (FOLDER / f"{name}-{scheme}.svg").write_text(svg.replace("<svg ", f'<svg color="{text}" ', 1), encoding="utf-8")


def without_scheme(svg: str) -> str:
    """A drawing that no longer follows the reader's system."""
    start = svg.index("@media(prefers-color-scheme")
    return svg[:start] + svg[svg.index("</style>") :]


def with_choices(drawing: str, parameters: Mapping[str, BaseDistribution]) -> str:
    """A drawing of a network with a space's choices: those of a stage beside it, those of the whole network below."""
    svg, stages = without_scheme(drawing), grouped(parameters)
    whole = stages.pop("network", {})
    width, height = (int(size) for size in re.findall(r'(?:width|height)="(\d+)"', svg)[:2])
    tops = {name: int(y) for y, name in re.findall(r'<text x="0" y="(\d+)">([^<]*)</text>', svg)}
    left, texts = width + 26, [(0, height + 12 + 15 * i, f"{name}: {values}") for i, (name, values) in enumerate(whole.items())]
    texts += [(left, tops[stage] + 14 * i, text) for stage, choices in stages.items() for i, text in enumerate(lines(choices))]
    size = max([width, *(round(x + 5.9 * len(text)) for x, _, text in texts)]), height + 15 * len(whole) + 8
    title = f'<text x="{left}" y="46" class="title">choices of a search</text>' * bool(stages)
    added = title + "".join(f'<text x="{x}" y="{y}" class="quiet">{text}</text>' for x, y, text in texts)
    before, after = (f'viewBox="0 0 {w} {h}" width="{w}" height="{h}"' for w, h in ((width, height), size))
    return svg.replace(before, after).replace("</svg>", added + "</svg>")


def lines(choices: Mapping[str, str]) -> list[str]:
    """The choices of a stage on two lines; those of each layer on the second one."""
    pairs = [f"{name} {values}" for name, values in choices.items() if not name.startswith(LAYER)]
    layer = [f"{name.removeprefix(LAYER)} {values}" for name, values in choices.items() if name.startswith(LAYER)]
    half = len(pairs) if layer else (len(pairs) + 1) // 2
    second = f"each layer: {'; '.join(layer)}" if layer else "; ".join(pairs[half:])
    return ["; ".join(pairs[:half]), second]


def grouped(parameters: Mapping[str, BaseDistribution]) -> dict[str, dict[str, str]]:
    """Stage, or "network" → what is chosen there → the values."""
    groups: dict[str, dict[str, str]] = {}
    for path, distribution in parameters.items():
        first, *rest = path.split(".")
        group = first.replace("stage", "stage ") if rest else "network"
        name = LAYER * (len(rest) > 1) + path.split(".")[-1].replace("_", " ")
        groups.setdefault(group, {})[name] = shown(distribution)
    return groups


def shown(distribution: BaseDistribution) -> str:
    """The values of a parameter."""
    if isinstance(distribution, CategoricalDistribution):
        words = {True: "yes", False: "no"}
        values = [
            words[one] if isinstance(one, bool) else f"{one:.3g}" if isinstance(one, float) else f"{one}"
            for one in distribution.choices
        ]
        return ", ".join(values)
    return f"{distribution.low:g} to {distribution.high:g}"  # type: ignore[attr-defined]


def flow() -> str:
    """The way of a search, from the experiment to what comes out of it."""
    parts = []
    for i, (name, facts, fill) in enumerate(FLOW):
        x = 10 + 164 * i
        parts.append(box(x, 62, name, facts, fill))
        if i:
            parts.append(arrow(f"M{x - 34} 95h28"))
    parts.append(arrow("M732 62V30H239V56"))
    parts.append('<text x="485" y="22" class="quiet">the sampler reads how each network did</text>')
    parts.append(arrow("M403 128V150H239V134"))
    parts.append('<text x="321" y="166" class="quiet">no: nothing is trained</text>')
    for i, (name, fact) in enumerate(RESULTS):
        y = 12 + 58 * i
        parts.append(f'<rect x="848" y="{y}" width="150" height="46" rx="5" fill="#5cc2a0"/>')
        parts.append(
            f'<text x="923" y="{y + 19}" class="name">{name}</text><text x="923" y="{y + 36}" class="fact">{fact}</text>'
        )
        parts.append(arrow(f"M796 95C820 95 818 {y + 23} 842 {y + 23}"))
    style = (
        f"text{{font:12px {FONT};text-anchor:middle}}.name{{font-weight:600;font-size:14px;fill:#1b1f24}}.fact{{fill:#1b1f24}}"
        ".quiet{fill:currentColor}.arrow{fill:none;stroke:currentColor;stroke-width:1.5;marker-end:url(#tip)}"
    )
    tip = '<marker id="tip" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" orient="auto">'
    tip += '<path d="M0 0L8 4L0 8z" fill="currentColor"/></marker>'
    label = "experiment, sampler, limits, trial, log; then table, page and export"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1008 180" width="1008" height="180" role="img" '
        f'aria-label="{label}">'
        f"<style>{style}</style><defs>{tip}</defs>{''.join(parts)}</svg>"
    )


def box(x: int, y: int, name: str, facts: tuple[str, ...], fill: str) -> str:
    """A step of the flow."""
    text = "".join(f'<text x="{x + 65}" y="{y + 40 + 15 * i}" class="fact">{fact}</text>' for i, fact in enumerate(facts))
    name = f'<text x="{x + 65}" y="{y + 21}" class="name">{name}</text>'
    return f'<rect x="{x}" y="{y}" width="130" height="66" rx="5" fill="{fill}"/>{name}{text}'


def arrow(path: str) -> str:
    """A line with a tip."""
    return f'<path class="arrow" d="{path}"/>'


def front_page(run: Path, scheme: str) -> str:
    """The front of a run, with the drawings of its smallest and of its best network beside it."""
    df = nas.results(run)
    front = nas.front(df)
    figure = nas.plot_front(df)
    text, ground = SCHEMES[scheme]
    line = "#56b4e9" if scheme == "dark" else "#0072b2"
    figure.update_layout(
        paper_bgcolor=ground, plot_bgcolor=ground, font={"color": text, "size": 15, "family": FONT}, width=600, height=640
    )
    figure.update_xaxes(gridcolor="#8883", zeroline=False).update_yaxes(gridcolor="#8883", zeroline=False)
    figure.data[1].update(line_color=line, marker_color=line)
    networks = []
    for row in (front.iloc[0], front.iloc[-1]):
        top1 = row["val_top1_pct_believed"]
        drawing = nas.draw(nas.Architecture.from_json(row["architecture"]), num_classes=10)
        source = base64.b64encode(without_scheme(drawing).replace("<svg ", f'<svg color="{text}" ', 1).encode()).decode()
        figure.add_annotation(x=row["macs_m"], y=top1, text=f"trial {row['trial']}", ax=34, ay=28, arrowcolor=text, arrowwidth=1)
        caption = f"trial {row['trial']}: believed top-1 {top1:.1f} %"
        networks.append(f'<figure><figcaption>{caption}</figcaption><img src="data:image/svg+xml;base64,{source}"></figure>')
    style = (
        f"body{{margin:0;padding:16px;display:flex;gap:20px;align-items:center;width:fit-content;background:{ground};color:{text};"
        f"font:600 15px {FONT}}}figure{{margin:0 0 10px}}img{{height:292px;margin-top:6px;display:block}}"
    )
    chart = figure.to_html(full_html=False, config={"displayModeBar": False})
    return f"<!DOCTYPE html><meta charset=utf-8><style>{style}</style><body>{chart}<div>{''.join(networks)}</div></body>"


@contextmanager
def browser(scheme: str) -> Iterator[webdriver.Chrome]:
    """Chromium in a colour scheme."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]})
    try:
        yield driver
    finally:
        driver.quit()


def screenshot(driver: webdriver.Chrome, page: Path, name: str, element: str | None, size: tuple[int, int]) -> None:
    """A page, or one element of it, at 1.5 times its size as WebP."""
    metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1.5, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    driver.get(page.as_uri())
    ready = "return document.documentElement.dataset.drawn || document.querySelector('body > div .main-svg')"
    WebDriverWait(driver, 60).until(lambda one: one.execute_script(ready))
    driver.execute_async_script("setTimeout(arguments[0], 800)")  # drawings fill themselves in
    png = driver.find_element(By.CSS_SELECTOR, element).screenshot_as_png if element else driver.get_screenshot_as_png()
    Image.open(io.BytesIO(png)).convert("RGB").save(FOLDER / f"{name}.webp", quality=88, method=6)


if __name__ == "__main__":
    source = Path(sys.argv[1])
    (draw_table if source.suffix == ".csv" else draw_run)(source)
