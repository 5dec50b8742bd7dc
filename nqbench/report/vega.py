"""Vega: its JavaScript for the page, and its renderer for PNG and SVG. Both come from vl-convert, offline."""

from __future__ import annotations

import contextlib
import importlib.metadata
import io
from collections.abc import Mapping
from typing import Any

from nqbench.api.toolkit.paths import cache_dir
from nqbench.api.toolkit.sealed import seal_text, unseal_text

VEGA_LITE = "6.4"


def javascript() -> str:
    """Vega, Vega-Lite and Vega-Embed as one script that sets ``window.vegaEmbed``.

    Bundling takes seconds, so the result is kept in the cache folder by vl-convert's version.
    """
    version = importlib.metadata.version("vl-convert-python")
    kept = cache_dir() / "report" / f"vega-{version}-{VEGA_LITE}.js"
    found = unseal_text(kept)
    if found is not None:
        return found
    import vl_convert

    text = str(vl_convert.javascript_bundle(None, VEGA_LITE))  # type: ignore[arg-type]
    if "</script" in text.lower():  # it would end the element that it is inlined in
        text = text.replace("</script", "<\\/script")
    with contextlib.suppress(OSError):  # a cache that cannot be written costs seconds next time, nothing else
        seal_text(kept, text)
    return text


def svg(spec: Mapping[str, Any], datasets: Mapping[str, Any]) -> str:
    import vl_convert

    return str(vl_convert.vegalite_to_svg(_whole(spec, datasets), vl_version=VEGA_LITE))


def png(spec: Mapping[str, Any], datasets: Mapping[str, Any]) -> bytes:
    """Twice the nominal size, for sharp screens, in 256 colours: a seventh of the bytes, and no eye sees it."""
    import vl_convert
    from PIL import Image

    drawn = vl_convert.vegalite_to_png(_whole(spec, datasets), vl_version=VEGA_LITE, scale=2)
    with Image.open(io.BytesIO(drawn)) as image:
        few = image.convert("RGB").quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
    written = io.BytesIO()
    few.save(written, "png", optimize=True)
    return written.getvalue()


def _whole(spec: Mapping[str, Any], datasets: Mapping[str, Any]) -> dict[str, Any]:
    """The specification with its named data filled in, on white, as wide as a page's column."""
    config = {**spec.get("config", {}), "background": "white"}
    width = 640 if spec.get("width") == "container" else spec.get("width", 640)
    return {**spec, "config": config, "width": width, "datasets": {**spec.get("datasets", {}), **datasets}}
