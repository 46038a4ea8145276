"""The commands of ``tracelet-otel`` and their options. A command's code is imported when it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup


class _Commands(TyperGroup):
    def invoke(self, ctx: Any) -> Any:
        """Ends the program with a line on stderr and the exit code 2 if the configuration is wrong."""
        from tracelet_otel.foundation.importing import say_own_process
        from tracelet_otel.secrets.redaction import redacted_text
        from tracelet_otel.settings import ConfigurationError

        say_own_process()
        try:
            return super().invoke(ctx)
        except ConfigurationError as error:
            typer.echo(f"tracelet-otel: {redacted_text(str(error))}", err=True)
            raise typer.Exit(2) from error
        except KeyboardInterrupt:
            raise typer.Exit(130) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Backends = Annotated[
    list[str] | None,
    typer.Option("--backend", "-b", help="Where to deliver; several times or comma separated."),
]
Options = Annotated[
    list[str] | None,
    typer.Option(
        "--option", help="Option of a backend as backend.key=value, for example mlflow.tracking_uri=URI."
    ),
]
Timeout = Annotated[
    float, typer.Option(min=0.0, help="Seconds without progress after which a backend is given up.")
]


def _show_version(wanted: bool) -> None:
    if wanted:
        from tracelet_otel.version import VERSION

        typer.echo(VERSION)
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Delivers what training wrote to experiment trackers, and finds out why that does not work."""


@app.command()
def replay(
    paths: Annotated[
        list[Path] | None,
        typer.Argument(
            help="Spools, folders with spools, or files of OTLP JSON lines, as the Collector's file exporter "
            "writes them. Default: what waits for the backend in the state folder, and what backend 'file' "
            "wrote there."
        ),
    ] = None,
    backend: Backends = None,
    option: Options = None,
    remove: Annotated[
        bool, typer.Option("--remove", help="Remove spools that every backend has completely.")
    ] = False,
    timeout: Timeout = 60.0,
) -> None:
    """Delivers spools to trackers. Doing so twice changes nothing."""
    from tracelet_otel.cli.replay import replay

    raise typer.Exit(replay(paths or [], backend or [], option or [], remove=remove, timeout=timeout))


@app.command()
def export(
    spool: Annotated[Path, typer.Argument(help="A spool, or a folder with spools.")],
    target: Annotated[Path, typer.Argument(metavar="TARGET_FOLDER", help="A folder that is new or empty.")],
) -> None:
    """Writes spools as OTLP JSON lines, as the Collector's otlp_json_file receiver reads them."""
    from tracelet_otel.cli.replay import export

    export(spool, target)


@app.command("import")
def import_(
    folders: Annotated[list[Path], typer.Argument(metavar="LOGDIR...", help="Folders of TensorBoard.")],
    backend: Backends = None,
    option: Options = None,
    project: Annotated[str, typer.Option(help="Project that the runs are filed under.")] = "",
    experiment: Annotated[str, typer.Option(help="Experiment inside the project.")] = "",
    one_run: Annotated[
        bool,
        typer.Option(
            "--one-run/--run-per-folder",
            help="Whether LOGDIR is one run with the tags that its writers would have had live, or each "
            "folder with event files is one, as TensorBoard shows them.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only list the runs and their points.")] = False,
    timeout: Timeout = 60.0,
) -> None:
    """Imports TensorBoard's event files. Doing so twice adds only what is new."""
    from tracelet_otel.cli import importing

    request = importing.ImportRequest(folders, project, experiment, one_run)
    if dry_run:
        raise typer.Exit(importing.show(request))
    raise typer.Exit(importing.run(request, backend or [], option or [], timeout=timeout))


@app.command()
def doctor(
    backend: Annotated[
        list[str] | None,
        typer.Option("--backend", "-b", help="Backends to check, instead of the configured ones."),
    ] = None,
    option: Options = None,
    as_json: Annotated[bool, typer.Option("--json", help="Everything as JSON.")] = False,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds that a backend has to answer.")] = 15.0,
) -> None:
    """Shows what is installed, hooked, configured, reachable and waiting, and what to do about problems."""
    from tracelet_otel.cli.doctor import doctor

    raise typer.Exit(doctor(backend or [], option or [], as_json=as_json, timeout=timeout))


@app.command()
def gateway(
    backends: Annotated[
        list[str] | None,
        typer.Option(
            "--backends", "--backend", "-b", help="Where to deliver; several times or comma separated."
        ),
    ] = None,
    option: Options = None,
    config: Annotated[
        Path | None,
        typer.Option(help="JSON file of backends and their options, as configure(backends=) takes them."),
    ] = None,
    name: Annotated[
        str, typer.Option(help="Name of its spools; each gateway of a machine has its own.")
    ] = "default",
    grpc: Annotated[str, typer.Option(help="HOST:PORT of OTLP/gRPC, or 'off'.")] = "127.0.0.1:4317",
    http: Annotated[
        str, typer.Option(help="HOST:PORT of OTLP/HTTP, health and metrics, or 'off'.")
    ] = "127.0.0.1:4318",
    token_file: Annotated[
        Path | None,
        typer.Option(help="Accepted bearer tokens, one a line; read again when it changes."),
    ] = None,
    tls_cert: Annotated[Path | None, typer.Option(help="Certificate chain of both servers, PEM.")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its key, PEM.")] = None,
    tls_client_ca: Annotated[
        Path | None, typer.Option(help="Authorities of which clients need a certificate, PEM.")
    ] = None,
    insecure: Annotated[
        bool, typer.Option("--insecure", help="Let everybody write who can reach an address beyond loopback.")
    ] = False,
    silence: Annotated[
        float, typer.Option(min=1.0, help="Seconds without data after which an open run counts as killed.")
    ] = 900.0,
    media: Annotated[
        list[str] | None,
        typer.Option(help="Folder or URI below which payloads over 1 MiB may be read; several times."),
    ] = None,
) -> None:
    """Serves OTLP and delivers what many runs send to trackers. Ends with SIGTERM or Ctrl-C."""
    from tracelet_otel.cli.gateway import chosen_backends, gateway

    gateway(
        chosen_backends(config, backends or [], option or []),
        name=name,
        grpc="" if grpc == "off" else grpc,
        http="" if http == "off" else http,
        token_file=token_file,
        tls=(tls_cert, tls_key, tls_client_ca),
        insecure=insecure,
        silence=silence,
        media=tuple(media or ()),
    )
