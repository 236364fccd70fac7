"""The `xampler` command: each stage, all of them, and what surrounds them."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from xampler.pipeline import STAGES

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
    help="Label text in 500+ languages from English examples.\n\n"
    "Start with `xampler demo`; then `xampler run --config conf/experiments/sib200.yaml`.",
)
mini_app = typer.Typer(no_args_is_help=True, help="The mini models that ship with the package.")
model_app = typer.Typer(no_args_is_help=True, help="Language models and retrievers.")
app.add_typer(mini_app, name="mini")
app.add_typer(model_app, name="model")

Env = Annotated[
    Path | None,
    typer.Option("--env", help="Environment file: where tables, runs and Spark are. Default: this machine."),
]
ConfigFile = Annotated[Path, typer.Option("--config", help="Experiment file: data, models, methods.")]
Overrides = Annotated[
    list[str] | None, typer.Option("--set", metavar="PATH=VALUE", help="Override one value; may be repeated.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Show warnings only.")]
Verbose = Annotated[bool, typer.Option("--verbose", "-v", help="Show debug lines.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show stack traces.")]

STAGE_HELP = {
    "ingest": "Read texts into the tables `queries` and `candidates`.",
    "propose": "Propose candidates for each training query: table `pairs`.",
    "score": "Have the language model judge every pair: table `scores`.",
    "mine": "Turn judgements into `training_pairs`.",
    "train": "Train a retriever by each recipe, with DeepSpeed.",
    "retrieve": "Choose `demonstrations` for every query by every method.",
    "predict": "Label every query after its demonstrations: table `predictions`.",
    "evaluate": "Measure every method per language and group of languages.",
    "promote": "Register the trained retriever; make it champion if it is better.",
}
TABLE_WIDTH = 120  # of a sweep's table: a narrower screen wraps its lines, and no figure is cut
EXAMPLE = "\n\nExample: `xampler {command}`"


def _exit(run: Callable[[], None], *, debug: bool) -> None:
    from xampler.pipeline.entry import guard

    status = guard(run, debug=debug)
    if status:
        raise typer.Exit(status)


def _add_stage(stage: str) -> None:
    def command(
        config: ConfigFile,
        env: Env = None,
        overrides: Overrides = None,
        quiet: Quiet = False,
        verbose: Verbose = False,
        debug: Debug = False,
    ) -> None:
        from xampler.pipeline.entry import Screen, open_experiment
        from xampler.pipeline.plan import run_stages

        def run() -> None:
            with open_experiment(env, config, overrides or [], Screen(quiet, verbose, debug)) as context:
                run_stages(context, [stage])

        _exit(run, debug=debug)

    example = EXAMPLE.format(command=f"{stage} --config conf/experiments/sib200.yaml")
    app.command(stage, help=STAGE_HELP[stage] + example)(command)


def _score(
    config: ConfigFile,
    env: Env = None,
    overrides: Overrides = None,
    plan: Annotated[
        bool, typer.Option("--plan", help="Print prompts, tokens and seconds to expect; score nothing.")
    ] = False,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Score the pairs, or say what it would cost."""
    from xampler.pipeline.entry import Screen, open_experiment
    from xampler.pipeline.estimate import estimate_scoring, say_estimate
    from xampler.pipeline.plan import run_stages

    def work() -> None:
        with open_experiment(env, config, overrides or [], Screen(quiet, verbose, debug)) as context:
            if plan:
                typer.echo(say_estimate(estimate_scoring(context)))
            else:
                run_stages(context, ["score"])

    _exit(work, debug=debug)


for _stage in STAGES:
    if _stage == "score":
        _example = EXAMPLE.format(command="score --config conf/experiments/sib200.yaml --plan")
        app.command("score", help=STAGE_HELP["score"] + _example)(_score)
    else:
        _add_stage(_stage)


@app.command(
    help="Run all stages; what is up to date is skipped."
    + EXAMPLE.format(
        command="run --config conf/experiments/sib200.yaml --set data.source.root=data/sib200 "
        "--report sib200.html --summary sib200.json"
    )
)
def run(
    config: ConfigFile,
    env: Env = None,
    overrides: Overrides = None,
    summary: Annotated[
        Path | None, typer.Option(help="Write accuracies, prompts scored and seconds as JSON.")
    ] = None,
    report: Annotated[Path | None, typer.Option(help="Write the report as one HTML page.")] = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Run all stages."""
    from xampler.pipeline.entry import Screen, open_experiment
    from xampler.pipeline.finish import finish_run
    from xampler.pipeline.plan import run_stages

    def work() -> None:
        with open_experiment(env, config, overrides or [], Screen(quiet, verbose, debug)) as context:
            finish_run(context, run_stages(context), summary=summary, report=report)

    _exit(work, debug=debug)


@app.command(
    help="Write the report of a finished run again."
    + EXAMPLE.format(command="report --config conf/experiments/sib200.yaml --output sib200.html")
)
def report(
    config: ConfigFile,
    output: Annotated[Path, typer.Option(help="The HTML page to write.")],
    env: Env = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Write the report."""
    from xampler.pipeline.entry import Screen, open_experiment
    from xampler.pipeline.finish import write_report

    def work() -> None:
        with open_experiment(env, config, overrides or [], Screen(quiet, verbose, debug)) as context:
            write_report(context, output)

    _exit(work, debug=debug)


@app.command(
    help="Run an experiment under several values: a table, a plot, one MLflow run with a child for each. "
    "Rows that do not depend on the swept values are shared."
    + EXAMPLE.format(command="sweep --config conf/sweeps/candidates.yaml --over k=2,5,10,20,50")
)
def sweep(
    config: Annotated[Path, typer.Option("--config", help="Sweep file, or an experiment file and --over.")],
    over: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=V1,V2", help="Values to try; names are crossed; may be repeated."),
    ] = None,
    more: Annotated[list[str] | None, typer.Argument(metavar="[NAME=V1,V2]...", help="As --over.")] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            help="Folder for sweep.html, .csv and .json. Default: sweeps/NAME; with --over, NAME-SWEPT-ID."
        ),
    ] = None,
    env: Env = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Run a sweep."""
    from rich.console import Console

    from xampler.pipeline.entry import Screen, open_environment
    from xampler.pipeline.sweep import run_sweep
    from xampler.pipeline.sweep_config import load_sweep
    from xampler.pipeline.sweep_page import sweep_tables, write_results

    def work() -> None:
        wanted = load_sweep(config, [*(over or []), *(more or [])], overrides or [])
        with open_environment(
            env, f"xampler sweep {wanted.config.name}", Screen(quiet, verbose, debug)
        ) as engines:
            results = run_sweep(engines, wanted)
            screen = Console(width=max(Console().width, TABLE_WIDTH))
            screen.print(*sweep_tables(results))
            write_results(results, output or Path("sweeps") / wanted.title)

    _exit(work, debug=debug)


@app.command(
    help="Label a corpus with a model from the registry: table `labels`. A rerun labels only what is new."
    + EXAMPLE.format(command="label --config conf/jobs/label_corpus.yaml --set source.path=news.jsonl")
)
def label(
    config: Annotated[Path, typer.Option("--config", help="Corpus, columns and model.")],
    env: Env = None,
    overrides: Overrides = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Label a corpus."""
    from xampler.config import load_config
    from xampler.pipeline.entry import Screen, open_environment
    from xampler.pipeline.finish import say_labelled
    from xampler.pipeline.label import LabelConfig, label_corpus

    def work() -> None:
        wanted = load_config(LabelConfig, config, overrides or [])
        with open_environment(
            env, f"xampler label {wanted.corpus}", Screen(quiet, verbose, debug)
        ) as engines:
            say_labelled(label_corpus(engines, wanted))

    _exit(work, debug=debug)


@app.command(
    help="The whole pipeline on embedded data in minutes: table, report, registered model."
    + EXAMPLE.format(command="demo")
)
def demo(
    env: Env = None,
    output: Annotated[Path, typer.Option(help="Folder for report.html and summary.json.")] = Path("demo"),
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Run the demo."""
    from xampler.pipeline.demo import run_demo
    from xampler.pipeline.entry import Screen

    _exit(partial(run_demo, env, output, Screen(quiet, verbose, debug)), debug=debug)


@mini_app.command(
    "build",
    help="Train the mini encoder and language model from scratch (30 minutes on two cores)."
    + EXAMPLE.format(command="mini build --data data/sib200"),
)
def mini_build(
    data: Annotated[Path, typer.Option(help="SIB-200 in its published layout.")],
    output: Annotated[Path, typer.Option(help="Folder that gets encoder/ and language_model/.")] = Path(
        "mini"
    ),
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Train the mini models."""
    from xampler.mini.build import build_mini_models
    from xampler.pipeline.entry import Screen, set_up_logging

    def work() -> None:
        set_up_logging(Screen(quiet, verbose, debug), Path(".xampler/log/xampler.log"))
        build_mini_models(data, output)

    _exit(work, debug=debug)


@model_app.command(
    "merge",
    help="Merge an experiment's adapter into its base once, into the folder `language_model.merged`."
    + EXAMPLE.format(
        command="model merge --config conf/experiments/sib200_paper.yaml "
        "--set language_model.merged=models/mala-500"
    ),
)
def model_merge(
    config: ConfigFile,
    overrides: Overrides = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Merge base and adapter."""
    from xampler.config import load_config
    from xampler.models.build import merge_adapter
    from xampler.pipeline.entry import Screen, set_up_logging
    from xampler.pipeline.experiment import ExperimentConfig

    def work() -> None:
        set_up_logging(Screen(quiet, verbose, debug), Path(".xampler/log/xampler.log"))
        folder = merge_adapter(load_config(ExperimentConfig, config, overrides or []).language_model)
        typer.echo(f"merged weights: {folder}")

    _exit(work, debug=debug)


Reference = Annotated[str, typer.Argument(help="A registered version: NAME@ALIAS or NAME/VERSION.")]


@model_app.command(
    "show",
    help="Where a registered version comes from: recipe, models, tables, runs, figures."
    + EXAMPLE.format(command="model show xampler-demo@champion"),
)
def model_show(reference: Reference, env: Env = None, debug: Debug = False) -> None:
    """Show a version's lineage."""
    from rich.console import Console

    from xampler.pipeline.model_show import show_model

    _exit(lambda: Console().print(show_model(env, reference)), debug=debug)


@model_app.command(
    "compare",
    help="Paired difference of two registered versions per group of languages, first less second, on the "
    "texts that both have labelled." + EXAMPLE.format(command="model compare xampler-demo/2 xampler-demo/1"),
)
def model_compare(
    first: Reference,
    second: Reference,
    split: Annotated[str, typer.Option(help="dev or test.")] = "test",
    env: Env = None,
    quiet: Quiet = False,
    verbose: Verbose = False,
    debug: Debug = False,
) -> None:
    """Compare two versions."""
    from rich.console import Console

    from xampler.pipeline.entry import Screen, open_environment
    from xampler.pipeline.model_compare import compare_models, compare_table

    def work() -> None:
        with open_environment(env, "xampler model compare", Screen(quiet, verbose, debug)) as engines:
            found = compare_models(engines, first, second, split)
            Console().print(compare_table(first, second, split, found))

    _exit(work, debug=debug)


def main() -> None:
    """Entry of the console script."""
    app(prog_name="xampler")


if __name__ == "__main__":
    main()
