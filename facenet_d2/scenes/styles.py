"""QGIS styles that colour instances by class."""

from __future__ import annotations

from xml.sax.saxutils import quoteattr

from .description import SceneDescription

_FILL_OPACITY = 90  # Of 255.


def qgis_style(scene: SceneDescription) -> str:
    """Return a QGIS layer style (QML): a category of the attribute ``class`` for each class.

    Polygons have the class's colour, with a transparent fill.
    """
    categories, symbols = [], []
    for number, (name, color) in enumerate(zip(scene.class_names, scene.class_colors, strict=True)):
        text = quoteattr(name)
        categories.append(
            f'<category symbol="{number}" value={text} label={text} type="string" render="true"/>'
        )
        rgb = ",".join(map(str, color))
        symbols.append(
            f'<symbol type="fill" name="{number}" alpha="1" clip_to_extent="1" force_rhr="0">'
            f'<layer class="SimpleFill" enabled="1" locked="0" pass="0"><Option type="Map">'
            f"{_option('color', f'{rgb},{_FILL_OPACITY}')}"
            f"{_option('style', 'solid')}"
            f"{_option('outline_color', f'{rgb},255')}"
            f"{_option('outline_style', 'solid')}"
            f"{_option('outline_width', '0.4')}"
            f"{_option('outline_width_unit', 'MM')}"
            f"{_option('joinstyle', 'miter')}"
            "</Option></layer></symbol>"
        )
    lines = [
        "<!DOCTYPE qgis PUBLIC 'http://mrcc.com/qgis.dtd' 'SYSTEM'>",
        '<qgis version="3.28.0" styleCategories="Symbology">',
        '<renderer-v2 type="categorizedSymbol" attr="class" symbollevels="0" forceraster="0" '
        'enableorderby="0">',
        "<categories>",
        *categories,
        "</categories>",
        "<symbols>",
        *symbols,
        "</symbols>",
        "</renderer-v2>",
        "<layerGeometryType>2</layerGeometryType>",
        "</qgis>",
    ]
    return "\n".join(lines)


def _option(name: str, value: str) -> str:
    return f'<Option type="QString" name="{name}" value="{value}"/>'
