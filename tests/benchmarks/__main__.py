"""``python -m tests.benchmarks [NAME …]``: prints a table and writes JSON to ``BENCH_OUT``."""

import json
import os
import sys
import tempfile
from pathlib import Path

from core.embedded import Postgres
from tests.benchmarks.stage import Figure

ROOT = Path(__file__).resolve().parents[2]


def main(names: list[str]) -> int:
    """Build the stage, play, report."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder, Postgres(data_dir=Path(folder)) as postgres:
        os.environ.update(
            DATABASE_URL=postgres.url(),
            CELERY_BROKER_URL="memory://",
            SECRET_KEY="benchmark-" + "x" * 40,
            ALLOWED_HOSTS="127.0.0.1",
            DATA_DIR=folder,
            DJANGO_SETTINGS_MODULE="core.settings",
            LOG_LEVEL="WARNING",
        )
        figures = _play(postgres.url(), Path(folder), names)
    _report(figures)
    return 0


def _play(url: str, folder: Path, names: list[str]) -> list[Figure]:
    import django

    django.setup()
    from django.core.management import call_command

    from tests.benchmarks import (
        closing,
        gateway,
        holds,
        ingest,
        overload,
        pages,
        paint,
        processor,
        rates,
        singles,
        size,
        wallet,
    )
    from tests.benchmarks.cast import stage

    call_command("migrate", verbosity=0)
    call_command("load_prices", "metering/seed/catalog.json", "--publish", verbosity=0)
    played = stage(url, folder)
    played.spare = size.spare(played)
    chosen = {
        "rates": rates.figures, "ingest": ingest.figures, "wallet": wallet.figures, "holds": holds.figures,
        "pages": pages.figures, "singles": singles.figures, "processor": processor.figures,
        "overload": overload.figures, "closing": closing.figures, "size": size.figures, "gateway": gateway.figures,
        "paint": paint.figures,
    }  # fmt: skip
    return [figure for name, play in chosen.items() if not names or name in names for figure in play(played)]


def _report(figures: list[Figure]) -> None:
    out = Path(os.environ.get("BENCH_OUT", "") or ROOT / ".data" / "bench.json")
    out.parent.mkdir(parents=True, exist_ok=True)
    told = {
        figure.name: {
            "value": figure.value,
            "unit": figure.unit,
            "limit": figure.limit,
            "ratio": figure.ratio,
            "detail": figure.detail,
        }
        for figure in figures
    }
    out.write_text(json.dumps(told, indent=1) + "\n")
    print(f"{'figure':<26}{'value':>14} {'unit':<10}{'limit':>14}{'ratio':>8}")
    for figure in figures:
        limit = "" if figure.limit is None else f"{figure.limit:,.1f}"
        ratio = "" if figure.ratio is None else f"{figure.ratio:.3f}"
        print(f"{figure.name:<26}{figure.value:>14,.1f} {figure.unit:<10}{limit:>14}{ratio:>8}")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
