"""Pictures of a run in MLflow, under the file names for which its charts page offers a slider over the steps."""

from __future__ import annotations

import io
import re
import tempfile
import uuid
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from stabletrain.tracking import tags
from stabletrain.tracking.contents.picture_plan import Identity, Picture

if TYPE_CHECKING:
    from mlflow import MlflowClient

FOLDER = "images"
_FILE_NAME = re.compile(
    r"^(?P<key>.+)\+step\+(?P<step>\d+)\+timestamp\+(?P<time>\d+)\+.+?(?P<small>\+compressed\.webp|\.png)$"
)


def pictures_there(client: MlflowClient, run_id: str) -> set[Identity]:
    """Return the pictures of which the server has both the full-size and the reduced version."""
    found: dict[str, set[Identity]] = {".png": set(), "+compressed.webp": set()}
    for file in client.list_artifacts(run_id, FOLDER):
        if match := _FILE_NAME.match(Path(file.path).name):
            key = match["key"].replace("~", "/").replace("#", "/")
            found[match["small"]].add((key, int(match["step"]), int(match["time"])))
    return found[".png"] & found["+compressed.webp"]


def upload_picture(client: MlflowClient, run_id: str, picture: Picture, png: bytes) -> None:
    """Log a PNG as `MlflowClient.log_image` does, under file names that are a function of key, step and time.

    `log_image` gives its two files random names, so that a picture repeated after a crash would appear twice. And it
    reduces the version on the charts page to 256 pixels, too few to read the layers' names; here it keeps its size.
    """
    unique = uuid.uuid5(uuid.NAMESPACE_URL, f"{run_id}/{picture.key}/{picture.step}")
    stem = f"{picture.key.replace('/', '~')}+step+{picture.step}+timestamp+{picture.time_ms}+{unique}"
    with tempfile.TemporaryDirectory(prefix="stabletrain-") as folder:
        Path(folder, f"{stem}.png").write_bytes(png)
        Path(folder, f"{stem}+compressed.webp").write_bytes(_compress(png))
        client.log_artifacts(run_id, folder, FOLDER)
    client.set_tag(run_id, tags.LOGGED_IMAGES, "True")


@lru_cache(maxsize=1)  # the last picture of a kind is uploaded under two keys, one after the other
def _compress(png: bytes) -> bytes:
    """Return a PNG as WebP. Method 2 needs a third of the CPU time of the default, 4, and is 6% larger."""
    from PIL import Image

    buffer = io.BytesIO()
    with Image.open(io.BytesIO(png)) as image:
        image.convert("RGB").save(buffer, "webp", quality=85, method=2)
    return buffer.getvalue()
