"""Draws the picture of the package: hypervolume after each network on NAS-Bench-Macro, by sampler.

Medians over seeds, with bands from the lower to the upper quartile. A duplicate proposal is answered again and does not count.

Usage: python -m experiments.optunahub.figure FILE [--seeds 20] [--budget 100] [--processes 2]
FILE is nas-bench-macro_cifar10.json of github.com/xiusu/NAS-Bench-Macro. It takes about
eight minutes on two idle cores, most of them for Optuna's GP.
"""

import argparse
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from typing import Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from experiments.benchmarks.sampler_efficiency import SearchResult, all_losses, named, problems, quiet, scores
from experiments.optunahub.__main__ import TEMPLATE

PROBLEM: Final = "NAS-Bench-Macro"
SAMPLERS: Final = {  # name there → (name in the picture, colour after Okabe and Ito's palette)
    "frontier": ("FrontierSampler", "#0072b2"),
    "gp": ("GPSampler", "#cc79a7"),
    "tpe": ("TPESampler", "#e69f00"),
    "nsga2, 20": ("NSGAIISampler", "#009e73"),
    "random": ("RandomSampler", "#808080"),
}
SCALE: Final = 2  # pixels of the file for each pixel of the layout
WIDTH, HEIGHT = 560, 330  # pixels of the panel
LEFT, TOP, RIGHT, BOTTOM = 56, 34, 140, 46
LOWEST: Final = 70.0  # lowest share on the axis, percent


def search(file: str, *, seeds: int, budget: int, processes: int) -> dict[str, NDArray[np.float64]]:
    """Sampler → the share of the true front's hypervolume, percent; (seeds, different networks)."""
    problem = problems(file)[PROBLEM]
    with ProcessPoolExecutor(processes, initializer=quiet) as pool:
        ends = {name: [pool.submit(named, PROBLEM, file, name, 1, seed, budget) for seed in range(seeds)] for name in SAMPLERS}
        results: dict[str, list[SearchResult]] = {name: [end.result() for end in of] for name, of in ends.items()}
    networks, _ = all_losses(problem, ())
    shares, _ = scores(problem, results, networks, "the true")
    length = max(len(run) for of in shares.values() for run in of)
    return {
        name: 100 * np.array([run + [run[-1]] * (length - len(run)) for run in of]) for name, of in shares.items()
    }  # a search that finds no further network stays where it is


def draw(shares: Mapping[str, NDArray[np.float64]]) -> Image.Image:
    """The picture: a line and a band for each sampler, with its name at the line's end."""
    size = (SCALE * (LEFT + WIDTH + RIGHT), SCALE * (TOP + HEIGHT + BOTTOM))
    image, font = Image.new("RGB", size, "white"), ImageFont.load_default(13 * SCALE)
    pen = ImageDraw.Draw(image, "RGBA")
    budget = max(values.shape[1] for values in shares.values())

    def at(network: float, share: float) -> tuple[float, float]:
        height = (100 - max(share, LOWEST)) / (100 - LOWEST)
        return SCALE * (LEFT + WIDTH * network / budget), SCALE * (TOP + HEIGHT * height)

    for share in range(int(LOWEST), 101, 5):
        pen.line([at(0, share), at(budget, share)], "#e0e0e0", SCALE)
        pen.text((SCALE * (LEFT - 8), at(0, share)[1]), f"{share}", "#333333", font, anchor="rm")
    for network in range(0, budget + 1, 20):
        pen.text((at(network, 0)[0], SCALE * (TOP + HEIGHT + 8)), f"{network}", "#333333", font, anchor="mt")
    pen.text((SCALE * 8, SCALE * 8), "hypervolume, % of the true front's", "#333333", font)
    pen.text((at(budget / 2, 0)[0], SCALE * (TOP + HEIGHT + 28)), "different networks trained", "#333333", font, anchor="mt")
    for name, values in shares.items():
        colour = SAMPLERS[name][1]
        low, middle, high = (
            [at(i + 1, share) for i, share in enumerate(row)] for row in np.percentile(values, (25, 50, 75), axis=0)
        )
        pen.polygon([*low, *reversed(high)], fill=colour + "30")
        pen.line(middle, colour, 2 * SCALE, joint="curve")
    for name, height in zip(shares, spread_out([at(0, np.median(values[:, -1]))[1] for values in shares.values()]), strict=True):
        pen.text((SCALE * (LEFT + WIDTH + 8), height), SAMPLERS[name][0], SAMPLERS[name][1], font, anchor="lm")
    return image


def spread_out(heights: list[float]) -> list[float]:
    """Heights of the names, from the highest line down, none nearer to the next than a line of text."""
    placed = heights[:1]
    for height in heights[1:]:
        placed.append(max(height, placed[-1] + 17 * SCALE))
    return placed


def main() -> None:
    """Write the picture, and print the median and quartiles of each sampler."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("file")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--budget", type=int, default=100, help="different networks of one search")
    parser.add_argument("--processes", type=int, default=2)
    shares = search(**vars(parser.parse_args()))
    for name, values in shares.items():
        for network in sorted({25, 50, values.shape[1]}):
            low, middle, high = np.percentile(values[:, min(network, values.shape[1]) - 1], (25, 50, 75))
            print(f"{SAMPLERS[name][0]:<16}after {network:<4}{middle:.2f} % ({low:.2f} to {high:.2f}), {len(values)} seeds")
    draw(shares).save(TEMPLATE / "images" / "thumbnail.png", optimize=True)


if __name__ == "__main__":
    main()
