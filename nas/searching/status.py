"""How far a search is, in two lines, for a terminal and a notebook."""

from nas.searching.searcher import ArchitectureSearcher


def status_lines(searcher: ArchitectureSearcher) -> tuple[str, str]:
    """(the trials by status, with rich's markup; the best values so far)."""
    state, tally = searcher.state, searcher.state.log.tally
    counts = (
        f"[green]{tally.done} done[/] · {len(searcher.pending)} running · {tally.stopped} stopped early · "
        f"{f'[red]{tally.failed} failed[/]' if tally.failed else '0 failed'} · {tally.infeasible} infeasible"
        f"{' · stopping after the epochs under way' if state.interrupted.is_set() and searcher.pending else ''}"
    )
    front = state.front()
    if not front:
        return counts, "no network yet"
    best = [min(losses) for losses in zip(*front, strict=True)]
    objectives = zip(state.session.plan.problem.objectives, best, strict=True)
    gain = state.growth.gain
    after = f"{', as believed' if state.beliefs else ''}{f', growth {gain} a trial' if gain else ''}"
    values = ", ".join(f"{one.name} {one.loss(loss):.4g}" for one, loss in objectives)
    return counts, f"best {values}; front {len(front)}, hypervolume {state.hypervolume(front):.3f}{after}"
