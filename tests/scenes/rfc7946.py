"""A strict check of GeoJSON, written from the text of RFC 7946 alone."""

from __future__ import annotations

import json
from decimal import Decimal
from itertools import pairwise
from pathlib import Path

MAX_DECIMALS = 7
# Members that section 7.1 forbids in objects of other types.
GEOMETRY_MEMBERS = {"coordinates", "geometries", "geometry", "properties", "features"}


class Violation(AssertionError):
    pass


def require(condition, message):
    if not condition:
        raise Violation(message)


def refuse_constant(name):
    raise Violation(f"{name} is not JSON")


def check_file(path: Path, *, max_decimals=MAX_DECIMALS) -> dict:
    """Check a FeatureCollection and return it with plain numbers."""
    text = path.read_bytes().decode("utf-8")
    require(not text.startswith("\ufeff"), "a byte order mark")
    content = json.loads(text, parse_float=Decimal, parse_constant=refuse_constant)
    require(content.get("type") == "FeatureCollection", "not a FeatureCollection")
    require(isinstance(content.get("features"), list), "features is not a list")
    require(not (GEOMETRY_MEMBERS - {"features"}) & set(content), "7.1: members of other types")
    require("crs" not in content, "4: member crs")
    ids = set()
    for feature in content["features"]:
        check_feature(feature, max_decimals)
        require(feature["id"] not in ids, f"3.2: id {feature['id']} twice")
        ids.add(feature["id"])
    return json.loads(text)


def check_feature(feature, max_decimals):
    require(feature.get("type") == "Feature", "3.2: not a Feature")
    require({"geometry", "properties"} <= set(feature), "3.2: members are missing")
    require(not {"coordinates", "geometries", "features", "crs"} & set(feature), "7.1, 4")
    require(isinstance(feature["properties"], (dict, type(None))), "3.2: properties")
    require(isinstance(feature.get("id", 0), (str, int, Decimal)), "3.2: id")
    geometry = feature["geometry"]
    require(set(geometry) == {"type", "coordinates"}, "3.1: members of the geometry")
    polygons = geometry["coordinates"]
    if geometry["type"] == "Polygon":
        polygons = [polygons]
    else:
        require(geometry["type"] == "MultiPolygon", f"not an area but {geometry['type']}")
    require(polygons, "no polygon")
    for rings in polygons:
        require(rings, "3.1.6: no ring")
        for number, ring in enumerate(rings):
            check_ring(ring, max_decimals)
            turn = signed_area(ring)
            require(turn != 0, "a ring without an area")
            require((turn > 0) == (number == 0), f"3.1.6: ring {number} has the wrong direction")


def check_ring(ring, max_decimals):
    require(len(ring) >= 4, "3.1.6: fewer than 4 positions")
    require(ring[0] == ring[-1], "3.1.6: not closed")
    for position in ring:
        require(len(position) == 2, "3.1.1: not longitude and latitude")
        for value, limit in zip(position, (180, 90)):
            require(isinstance(value, (int, Decimal)), f"{value!r} is not a number")
            require(-limit <= value <= limit, f"4: {value} is not between -{limit} and {limit}")
            decimals = -Decimal(value).as_tuple().exponent
            require(decimals <= max_decimals, f"11.2: {value} has {decimals} decimals")
    for (x0, y0), (x1, y1) in pairwise(ring):
        require((x0, y0) != (x1, y1), "a position is repeated")
        # At a pole all longitudes are one point.
        at_pole = abs(y0) == abs(y1) == 90
        require(abs(x1 - x0) <= 180 or at_pole, "3.1.9: an edge over the antimeridian")


def signed_area(ring):
    x, y = ring[0]
    return sum((x0 - x) * (y1 - y) - (x1 - x) * (y0 - y) for (x0, y0), (x1, y1) in pairwise(ring))
