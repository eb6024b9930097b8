"""One sync task: what an idle worker carries is then its own."""

from shiftboss import task


@task
def nothing() -> None:
    """Nothing."""
