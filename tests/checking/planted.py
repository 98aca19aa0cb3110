"""Data sets with planted faults."""

import cv2
import numpy as np
from image_files import tiff_page, write_tiff


class Planted:
    """A data set and the faults planted in it, as (kind, id or file name)."""

    def __init__(self, content, folder):
        self.content, self.folder = content, folder
        self.expected = []
        self.used = iter(
            a for a in content["annotations"] if isinstance(a["segmentation"], list) and a["id"]
        )
        self.images = iter(content["images"])

    def annotation(self, kind):
        """Return the next annotation without a fault, and expect one of this kind."""
        a = next(self.used)
        self.expected.append((kind, a["id"]))
        return a

    def image(self, kind):
        image = next(self.images)
        self.expected.append((kind, image["file_name"]))
        return image

    def size(self, annotation):
        image = next(i for i in self.content["images"] if i["id"] == annotation["image_id"])
        return image["height"], image["width"]


def plant_image_faults(p):
    (p.folder / p.image("image-missing")["file_name"]).unlink()
    broken = p.folder / p.image("image-unreadable")["file_name"]
    broken.write_bytes(broken.read_bytes()[:900])
    p.image("image-size")["width"] += 7
    deep = p.image("image-depth")
    pixels = np.full((deep["height"], deep["width"]), 3000, np.uint16)
    assert cv2.imwrite(str(p.folder / "deep.png"), pixels)
    deep["file_name"] = "deep.png"
    p.expected[-1] = ("image-depth", "deep.png")
    near_infrared = np.zeros((4, 4, 4), np.uint8)
    bands = write_tiff([tiff_page(near_infrared, photometric=2, extra=(0,))])
    frame = tiff_page(near_infrared[..., :3], photometric=2)
    files = {
        "image-bands": bands,
        "image-frames": write_tiff([frame, frame]),
        "image-large": b"P5 50000 50000 255\n",
    }
    last = max(i["id"] for i in p.content["images"])
    for number, (kind, content) in enumerate(files.items(), last + 1):
        name = f"{kind}.bin"
        (p.folder / name).write_bytes(content)
        entry = {"id": number, "file_name": name, "height": 4, "width": 4}
        p.content["images"].append(entry)
        p.expected.append((kind, name))


def plant_entry_faults(p):
    c = p.content
    last = max(i["id"] for i in c["images"])
    del p.image("image-no-size")["height"]
    renamed = p.image("image-name")
    renamed["file_name"] = f"C:\\set\\{renamed['file_name'].upper()}"
    p.expected[-1] = ("image-name", renamed["file_name"])
    twice = p.image("image-file-twice")
    c["images"].append({**twice, "id": last + 1})
    c["images"].append({**p.image("image-id-twice"), "file_name": "other.png"})
    c["images"].append({"id": last + 2, "file_name": "unsized.png", "height": 0, "width": 5})
    p.expected.append(("image-entry", last + 2))
    c["categories"].append({"id": c["categories"][0]["id"], "name": "kite"})
    p.expected.append(("category-id-twice", c["categories"][0]["id"]))
    c["categories"].append({"id": 901})
    p.expected.append(("category-entry", 901))
    p.annotation("category-unknown")["category_id"] = 777
    p.annotation("image-unknown")["image_id"] = 99999
    p.annotation("annotation-entry")["iscrowd"] = "many"
    p.annotation("box-missing")["bbox"] = [1, 2, 3]
    a = p.annotation("field-type")
    a["image_id"] = str(a["image_id"])
    p.annotation("ignored")["ignore"] = 1
    p.annotation("mask-missing")["segmentation"] = []
    p.annotation("annotation-id-missing")["id"] = None
    p.expected[-1] = ("annotation-id-missing", "None")
    p.annotation("annotation-entry")["segmentation"] = [[1, 2, float("nan"), 4, 5, 6]]
    number = p.annotation("annotation-id-twice")["id"]
    next(p.used)["id"] = number


def plant_object_faults(p):
    p.annotation("box-empty")["bbox"][2] = 0
    a = p.annotation("box-outside")
    a["bbox"][0] = p.size(a)[1] - 5
    a["bbox"][2] = 20
    p.annotation("box-disagrees")["bbox"][1] += 9
    p.annotation("area-disagrees")["area"] *= 2
    del p.annotation("area-missing")["area"]
    a = p.annotation("polygon-degenerate")
    a["segmentation"].append(a["segmentation"][0][:4])
    a = p.annotation("polygon-degenerate")
    a["segmentation"].append(a["segmentation"][0][:7])
    # A bow tie, which covers half of its box.
    a = p.annotation("polygon-self-crossing")
    x, y, w, h = a["bbox"]
    a["segmentation"] = [[x, y, x + w, y + h, x + w, y, x, y + h]]
    a["area"] = w * h / 2
    a = p.annotation("polygon-outside")
    width = p.size(a)[1]
    a["segmentation"] = [[width - 20, 5, width + 30, 5, width + 30, 25, width - 20, 25]]
    a["bbox"], a["area"] = [width - 20, 5, 20, 20], 400
    a = p.annotation("mask-empty")
    a["segmentation"] = [[5.1, 5.1, 5.2, 5.1, 5.2, 5.2]]
    a["bbox"] = [5, 5, 1, 1]
    a = p.annotation("rle-invalid")
    a["segmentation"] = {"size": [7, 9], "counts": [63]}
    a = p.annotation("rle-invalid")
    a["segmentation"] = {"size": list(p.size(a)), "counts": "P1" * 9}
    a = p.annotation("rle-invalid")
    a["segmentation"] = {"size": list(p.size(a)), "counts": [10, 10]}
    a = next(p.used)
    copy = {**a, "id": max(b["id"] for b in p.content["annotations"]) + 1}
    p.content["annotations"].append(copy)
    p.expected.append(("annotation-twice", copy["id"]))
