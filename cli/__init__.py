"""The command line: `liveroom demo | up | doctor | replay | watch | send | token | revoke |
connections | why | simulate | loadtest | canary | top | pool | topics | keys | acls`.

It imports nothing at the top, so that `liveroom --help` is quick.
"""


def main() -> None:
    """Run the command line."""
    import logging  # noqa: PLC0415 - an importer of one module needs none of these
    import sys  # noqa: PLC0415

    import structlog  # noqa: PLC0415

    from cli.commands import app  # noqa: PLC0415
    from cli.output import OutputError, explain, finish, prepare  # noqa: PLC0415
    from liveroom.extras import explained  # noqa: PLC0415

    prepare()
    # What a command prints is its result; what goes wrong beside it belongs to the other stream.
    structlog.configure(
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
    )
    with explained("liveroom"):
        try:
            app()
        except OutputError as error:  # of the help, which is printed outside of commands
            sys.exit(explain(error))
        finally:
            finish()
