"""The page of a run, in a real browser: what it shows, that it loads nothing, and that no text of a run becomes a part of it."""

import json
import random
import re
import shutil
import subprocess
import sys
import zlib
from base64 import b64decode

import pytest
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.support.wait import WebDriverWait

import nas
from nas.runs.pareto import Box
from nas.runs.report import convergence, gather, write_report
from nas.runs.run_folder import HISTORY_FILE, SHARED, TRIALS_FILE, locked, read_experiment, write_experiment
from nas.runs.shared_check import check_shared
from nas.runs.shared_weights import SharedRecord, write_shared_record
from tests.made_up_runs import describe_run, end, run_of_networks, run_of_points, skip, start, train_in_full, write
from tests.runs.test_shared_check import alone

needs_browser = [
    pytest.mark.skipif(shutil.which("chromium") is None or shutil.which("chromedriver") is None, reason="there is no Chromium"),
    pytest.mark.slow,
]
HOSTILE = "</script><script>window.injected = 1</script><img src=x onerror='window.injected = 1'><!--"
FLAGS = (
    *("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--window-size=1280,900"),
)


def done(top1, **start):
    return {"status": "done", "top1": top1, "start": start}


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Every status, baselines, full trainings, and texts that would like to be HTML."""
    resnet = '{"timm": "resnet18", "resolution": 32}'
    trials = [done(60.0 + 3 * i) for i in range(10)]
    trials += [
        done(70.0, source="reference", name="like mobilenetv3_small_100"),
        done(75.0, source="reference", name=HOSTILE, params={}, architecture=resnet, id="timm:resnet18", baseline=True),
        {"status": "stopped", "top1": 40.0},
        {"status": "failed", "reason": "crash", "error": HOSTILE},
        {"status": "failed", "reason": "crash", "error": HOSTILE},
        {"status": "failed", "reason": "oom", "error": "out of memory"},
        {},  # under way when its search was killed
    ]
    folder = run_of_networks(tmp_path_factory.mktemp("report"), trials)
    write(folder, [skip(event, {"macs_m": 9.0}) for event in ("infeasible", "duplicate", "duplicate")])
    best = nas.front(nas.results(folder))["trial"].iloc[:2]
    for place, trial in enumerate(best):
        for seed in range(3):
            train_in_full(folder, trial, seed, 95.0 - place + seed / 10)
    return folder


@pytest.fixture
def scored_run(tmp_path):
    """Three networks that shared weights have scored, the first of them fine-tuned twice."""
    score = {"status": "done", "val_loss": 1.0, "seconds": 0.25, "start": {"weights": "shared"}}
    run = run_of_networks(tmp_path, [score | {"top1": 50.0 + i} for i in range(3)], shared_weights="train")
    (run / HISTORY_FILE).write_text("")
    first = json.loads((run / TRIALS_FILE).read_text().splitlines()[0])
    proposal = {name: first[name] for name in ("id", "params", "architecture")}
    proposal |= {"weights": "fine-tuned", "from_trial": 0, "source": "front"}
    for trial, top1 in ((3, 80.0), (4, 90.0)):
        values = first["values"] | {"val_top1_pct": top1}
        write(run, [start(trial, first["values"], **proposal), end(trial, values, seconds=2.25)])
    (run / SHARED).mkdir()
    training = {"processes": 2, "device": "cpu, 1 thread(s)", "precision": "float32", "seed": 0}
    write_shared_record(run, SharedRecord(train_loss=(2.0, 1.0), seconds=9.0, **training))
    return run


@pytest.fixture(scope="module")
def page_file(run, tmp_path_factory):
    """The page of that run."""
    return write_report(run, tmp_path_factory.mktemp("page") / "page.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def opened(browser, page, *, dark=False, phone=False):
    """The page, drawn to its end in an otherwise new tab."""
    scheme = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": scheme})
    if phone:
        size = {"width": 390, "height": 844, "deviceScaleFactor": 1, "mobile": True}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    else:
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(page.resolve().as_uri())
    WebDriverWait(browser, 60, 0.05).until(lambda one: one.execute_script("return document.documentElement.dataset.drawn"))
    return browser


def complaints(browser):
    """What the console says, and what was loaded beside the page itself."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    loaded = [url for url in urls if not url.startswith(("data:", "blob:")) and not url.endswith(".html")]
    return [entry["message"] for entry in browser.get_log("browser")] + loaded


def text(browser, selector):
    return browser.execute_script("return document.querySelector(arguments[0]).textContent", selector)


def layers(network):
    return sum(map(len, network.stages)) + 4  # with the stem, and with the head's pool, convolution and classifier


def selected(browser):
    """The trial that the panel shows, and how many boxes its drawing has."""
    WebDriverWait(browser, 10, 0.05).until(lambda one: one.execute_script("return byId('network').querySelector('svg')"))
    boxes = browser.execute_script("return document.querySelectorAll('#network svg .box').length")
    return int(re.search(r"trial (\d+)", text(browser, "#network h3"))[1]), boxes


class TestInABrowser:
    pytestmark = needs_browser

    def test_the_page_is_whole_loads_nothing_and_nothing_in_a_run_becomes_a_part_of_it(self, run, browser, page_file):
        page = opened(browser, page_file)
        assert complaints(page) == []
        assert page.execute_script("return window.injected ?? null") is None
        assert page.execute_script("return document.querySelectorAll('img').length") == 0
        assert page.execute_script("return document.querySelectorAll('.main-svg').length") >= 10
        counted = page.execute_script(
            "const pairs = [...byId('counts').children].map(pair => [...pair.children].map(part => part.textContent));"
            "return Object.fromEntries(pairs)"
        )
        front = int(nas.results(run)["is_front"].sum())
        statuses = {"done": 12, "stopped": 1, "failed": 3, "interrupted": 1, "infeasible": 1, "duplicate": 2}
        assert {name: int(count) for name, count in counted.items()} == statuses | {"on the front": front}
        assert json.loads(text(page, "#details")) == read_experiment(run)
        assert HOSTILE in text(page, "#failures tbody tr td:nth-child(3)")
        assert text(page, "#failures tbody tr td:nth-child(2)") == "2"
        assert text(page, "#trust-caption").startswith("Kendall's tau between the search's ranking and that of full trainings: ")
        names = page.execute_script("return document.getElementById('front').data.map(trace => [trace.name, trace.x.length])")
        assert ["front", front] in names
        assert ["references", 2] in names
        assert ["full training: top-1 on test images ± sd", 2] in names

    def test_a_click_on_a_point_shows_its_network(self, run, browser, page_file):
        page = opened(browser, page_file)
        found = nas.front(nas.results(run))
        before, _ = selected(page)
        target = next(trial for trial in found["trial"][::-1] if trial != before)
        place = """const g = byId('front'), trace = g.data.find(t => t.name === 'front'), box = g.getBoundingClientRect();
            const i = trace.customdata.findIndex(row => DATA.columns.trial[row] === arguments[0]), {xaxis, yaxis} = g._fullLayout;
            const [x, y] = [xaxis._offset + xaxis.d2p(trace.x[i]), yaxis._offset + yaxis.d2p(trace.y[i])];
            return [Math.round(box.x + x), Math.round(box.y + y)]"""
        page.execute_script("document.getElementById('front').scrollIntoView({block: 'center'})")
        x, y = page.execute_script(place, int(target))
        mouse = ActionChains(page)
        mouse.w3c_actions.pointer_action.move_to_location(x, y)
        mouse.w3c_actions.pointer_action.click()
        mouse.perform()
        WebDriverWait(page, 10).until(lambda one: selected(one)[0] == target)
        network = nas.Architecture.from_json(found.set_index("trial").loc[target, "architecture"])
        assert selected(page) == (target, layers(network))
        titles = page.execute_script("return [...document.querySelectorAll('#network svg g title')].map(t => t.textContent)")
        _, *blocks, _ = network.walk()
        for (block, width, *_), title in zip(blocks, titles[1:-3], strict=True):
            assert f"{block.op}, kernel {block.kernel}, stride {block.stride}\n{width} to {block.width} channels" in title
            assert ("skip" in title) == block.skip
        assert text(page, "#network .command") == f"nas export {run} --trial {target}"
        assert complaints(page) == []

    def test_enter_on_a_row_shows_its_network_and_a_header_sorts(self, run, browser, page_file):
        page = opened(browser, page_file)
        found = nas.front(nas.results(run))
        assert selected(page)[0] == found["trial"].iloc[0]
        page.execute_script("document.querySelector('#front-table tbody tr').focus()")
        ActionChains(page).send_keys(Keys.ARROW_DOWN, Keys.ENTER).perform()
        second = found.iloc[1]
        assert selected(page) == (second["trial"], layers(nas.Architecture.from_json(second["architecture"])))
        assert text(page, "tr[aria-selected=true] td") == str(second["trial"])
        page.execute_script("document.querySelector('[data-column=macs_m]').click()")
        shown = [
            int(one)
            for one in page.execute_script(
                "return [...document.querySelectorAll('#front-table tbody tr')].map(r => r.cells[0].textContent)"
            )
        ]
        assert shown == list(found.sort_values("macs_m")["trial"])

    def test_a_network_of_timms_is_said_to_have_no_picture(self, run, browser, page_file):
        page = opened(browser, page_file)
        page.execute_script("select(11)")
        assert "there is no picture of it" in text(page, "#network")
        assert HOSTILE in text(page, "#network h3")
        assert page.execute_script("return document.querySelectorAll('#network svg').length") == 0

    def test_any_number_can_be_an_axis(self, run, browser, page_file):
        page = opened(browser, page_file)
        page.execute_script("const x = byId('x'); x.value = 'seconds'; x.dispatchEvent(new Event('change'))")
        title, values = page.execute_script("const g = byId('front'); return [g.layout.xaxis.title.text, g.data[0].x]")
        assert (title, set(values)) == ("time of the training, s", {4.5})
        assert complaints(page) == []

    def test_points_and_rows_are_told_apart_by_their_weights(self, browser, scored_run):
        page = opened(browser, write_report(scored_run))
        names = page.execute_script("return byId('front').data.map(trace => [trace.name, trace.x.length, trace.marker?.symbol])")
        front = [name for name in names if name[0].startswith("front, ")]
        assert sum(count for _, count, _ in front) == int(nas.results(scored_run)["is_front"].sum())
        assert ["front, fine-tuned", 1, "triangle-up"] in front
        assert "shared (a slice of the shared weights)" in text(page, "#front-caption")
        caption = text(page, "#shared-caption")
        assert "Trained for 2 epochs in 9 s on 2 × cpu, 1 thread(s). 3 networks were scored, in 0.25 s each (median)." in caption
        assert "Fine-tuning changed the top-1 of 1 network by +40.0 points on average, from +40.0 to +40.0." in caption
        assert f"Not checked: nas verify {scored_run} --shared trains" in text(page, "#shared-trust")
        assert text(page, "#time-caption").startswith("14.25 s of training and scoring in ")
        for trial in range(3):
            alone(scored_run, trial, 70.0 + trial, 72.0 + trial)
        page = opened(browser, write_report(scored_run))
        check = check_shared(scored_run)
        assert check.difference in text(page, "#shared-trust")
        rows = "return [...document.querySelectorAll('#shared-rankings tbody tr')].map(row => row.cells[1].textContent)"
        assert page.execute_script(rows) == [str(agreement) for _, agreement in check.rankings]
        assert complaints(page) == []

    def test_dark_and_narrow(self, run, browser, page_file):
        file = page_file
        ground = "return [getComputedStyle(document.body).backgroundColor, document.getElementById('front').layout.font.color]"
        light = opened(browser, file).execute_script(ground)
        page = opened(browser, file, dark=True)
        dark = page.execute_script(ground)
        assert light[0] != dark[0]
        assert light[1] != dark[1]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "light"}]})
        WebDriverWait(page, 10).until(lambda one: one.execute_script(ground) == light)
        page = opened(browser, file, phone=True)
        widths = page.execute_script("return [document.documentElement.scrollWidth, innerWidth]")
        assert widths == [390, 390]
        assert complaints(page) == []

    def test_the_page_of_a_thousand_trials_is_small_and_draws_each(self, browser, tmp_path):
        generator = random.Random(1)
        run = run_of_networks(tmp_path / "runs", [done(generator.gauss(80, 5)) for _ in range(1000)], epochs=10)
        file = write_report(run)
        assert file == run / "report.html"
        assert file.stat().st_size < 8e6
        page = opened(browser, file)
        assert page.execute_script("return byId('front').data.reduce((sum, t) => sum + t.x.length, 0)") == 1001  # one is marked
        assert complaints(page) == []

    def test_with_one_objective_the_best_so_far_leaves_out_what_is_no_point_of_the_space(self, browser, tmp_path):
        trials = [done(70.0), done(99.0, params={}, source="reference", name="outside"), done(60.0), done(80.0)]
        page = opened(browser, write_report(run_of_networks(tmp_path, trials, objectives=("val_top1_pct",))))
        line = page.execute_script("const {x, y} = byId('front').data.find(t => t.name === 'best so far'); return [x, y]")
        assert line == [[0, 2, 3], [70, 70, 80]]
        assert "1 of 4 done trials is best on the only objective (maximize top-1 on validation images)" in text(
            page, "#front-caption"
        )

    def test_latencies_too_near_to_tell_apart_are_said(self, browser, tmp_path):
        points = [(70.0, 4.0), (72.0, 4.1), (80.0, 5.0)]
        run = run_of_points(tmp_path, points, objectives=("val_top1_pct", "latency_ms"))
        describe_run(run, latency_error_pct=3.0)
        page = opened(browser, write_report(run))
        said = "The latency of these pairs of trials differs by less than the 3.0 % error of the latency table: 0 and 1."
        assert text(page, "#close") == said
        assert page.execute_script("return byId('front').data.find(t => t.name === 'front').error_x.value") == 3
        assert complaints(page) == []

    @pytest.mark.parametrize(
        ("trials", "options", "sentence"),
        [
            ([], {}, "No trial has started yet."),
            ([{}, {"status": "failed", "reason": "diverged", "error": "e"}], {}, "No trial is done yet, so there is no front"),
            ([{"status": "done"}], {}, "1 done trial without a value on these axes is not drawn."),
            ([{"status": "done"}] * 4, {"objectives": ("macs_m",)}, "best on the only objective (minimize multiply-adds)"),
            (
                [done(70.0 + i) for i in range(9)],
                {"objectives": ("val_top1_pct", "macs_m", "params_m")},
                "(maximize top-1 on validation images, minimize multiply-adds, minimize parameters)",
            ),
        ],
        ids=["empty", "none done", "no value", "untrained", "three objectives"],
    )
    def test_what_is_not_there_is_a_sentence(self, browser, tmp_path, trials, options, sentence):
        page = opened(browser, write_report(run_of_networks(tmp_path, trials, **options)))
        assert sentence in text(page, "#front-caption")
        assert complaints(page) == []
        assert "undefined" not in text(page, "main")
        assert "NaN" not in text(page, "main")


def test_what_is_gathered_agrees_with_the_tables(run):
    found, df = gather(run), nas.results(run)
    trials = df[df["trial"].notna()]
    assert found["columns"]["trial"] == trials["trial"].tolist()
    assert [bool(front) for front in found["columns"]["is_front"]] == trials["is_front"].tolist()
    assert found["state"] == "interrupted"
    assert found["counts"] == df["status"].value_counts().to_dict()
    assert found["time"]["by_status"] == {"done": 54.0, "stopped": 4.5, "failed": 13.5}
    for text, packed in zip(trials["architecture"], found["networks"], strict=True):
        if packed is None:
            assert "timm" in text
        else:
            drawing = zlib.decompress(b64decode(packed)).decode()
            assert drawing == nas.draw(nas.Architecture.from_json(text), num_classes=10)


def test_the_page_can_be_made_while_the_search_runs(tmp_path):
    run = run_of_networks(tmp_path, [done(70.0), {}])
    with locked(run), (run / TRIALS_FILE).open("a") as log:
        log.write('{"event": "end", "tri')  # a line that is being written
        log.flush()
        found = gather(run)
    assert (found["state"], found["counts"]) == ("running", {"done": 1, "running": 1})


@pytest.mark.parametrize("names", [("val_top1_pct", "macs_m"), ("macs_m",), ("val_top1_pct", "macs_m", "params_m")])
def test_convergence_is_the_hypervolume_of_the_front_so_far(tmp_path, names):
    generator = random.Random(2)
    df = nas.results(run_of_networks(tmp_path, [done(generator.uniform(20, 95)) for _ in range(30)], objectives=names))
    found = convergence(df)
    signs = [-1 if name == "val_top1_pct" else 1 for name in names]
    points = [tuple(sign * row[name] for sign, name in zip(signs, names, strict=True)) for _, row in df.iterrows()]
    assert found["trial"] == list(range(30))
    assert found["share"] == pytest.approx([Box.around(points).share(points[: i + 1]) for i in range(30)])


def test_networks_with_other_weights_than_most_have_no_say_in_the_importances(scored_run):
    more = [json.loads(line) for line in (scored_run / TRIALS_FILE).read_text().splitlines()]
    ended = {"val_top1_pct": 50.0, "macs_m": 1.0}
    fields = {name: more[0][name] for name in ("params", "architecture")}
    for trial in range(5, 11):
        write(scored_run, [start(trial, ended, **fields, weights="shared"), end(trial, ended | {"val_top1_pct": 50.0 + trial})])
    assert gather(scored_run)["importance"]["networks"] == 9


def test_convergence_leaves_out_what_is_beyond_the_limits_or_no_point_of_the_space(tmp_path):
    limit = nas.Limit(objective=nas.objective("macs_m"), high=1.0)
    trials = [done(50.0), done(99.0, params={}), done(60.0)] + [done(55.0)] * 9
    df = nas.results(run_of_networks(tmp_path, trials, limits=(limit,)))
    within = df[(df["macs_m"] <= 1.0) & (df["trial"] != 1)]["trial"]
    assert 0 < len(within) < 11
    assert convergence(df)["trial"] == within.tolist()


def test_the_parameter_that_decides_is_the_most_important(tmp_path):
    run = run_of_networks(tmp_path, [done(50.0)] * 120)
    lines = [json.loads(line) for line in (run / TRIALS_FILE).read_text().splitlines()]
    squeezed = {line["trial"]: line["params"]["stage4.squeeze"] for line in lines if line["event"] == "start"}
    for line in lines:
        if line["event"] == "end":
            line["values"]["val_top1_pct"] = 50.0 + 20.0 * squeezed[line["trial"]] + line["trial"] / 1000
    (run / TRIALS_FILE).write_text("".join(json.dumps(line) + "\n" for line in lines))
    ((objective, bars),) = gather(run)["importance"]["bars"].items()
    assert objective == "val_top1_pct"
    assert bars[0][0] == "stage4.squeeze"
    assert len(bars) == 15


def test_a_space_that_is_gone_and_few_trials_are_sentences(tmp_path):
    run = run_of_networks(tmp_path, [done(50.0 + i) for i in range(5)])
    assert gather(run)["importance"]["why"].startswith("5 trials of the space are done; from 8 on, importances are shown")
    describe_run(run, space=read_experiment(run)["space"] | {"class": "Gone"})
    assert "the space cannot be rebuilt here: space mobilenetv3 raised" in gather(run)["importance"]["why"]


def test_making_the_page_loads_neither_torch_nor_ray_and_says_nothing(run, tmp_path):
    code = f"""
import sys
from nas.runs.report import write_report
write_report({str(run)!r}, {str(tmp_path / "page.html")!r})
print([name for name in ("torch", "ray", "timm") if name in sys.modules])
"""
    answer = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (answer.stdout, answer.stderr) == ("[]\n", "")


def test_a_page_that_cannot_be_written_and_a_folder_that_is_no_run_are_one_sentence(run, tmp_path):
    with pytest.raises(nas.NasError, match=r"nowhere/page.html cannot be written: No such file or directory; give another file"):
        write_report(run, tmp_path / "nowhere" / "page.html")
    with pytest.raises(nas.NasError, match="is not a run folder"):
        write_report(tmp_path)


def test_a_search_by_trainings_that_went_on_from_scores_counts_both(scored_run):
    assert gather(scored_run)["ended"] == "3/300 networks are scored"
    described = read_experiment(scored_run)
    write_experiment(scored_run, described | {"shared_weights": "none"})
    assert gather(scored_run)["ended"].endswith(" trials have ended, and 3 networks were scored by shared weights")


def test_a_full_training_is_of_a_network_whichever_weights_a_row_has(scored_run):
    train_in_full(scored_run, 0, 0, 95.0)  # the score; its network was fine-tuned twice
    df = nas.results(scored_run)
    same = df["id"] == df.loc[0, "id"]
    assert (same.sum(), df.loc[same, "full_test_top1_pct"].tolist()) == (3, [95.0] * 3)
    assert df.loc[~same, "full_seeds"].isna().all()
