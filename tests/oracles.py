"""Rules of the published models written as plain loops, shared by several test files."""

from dataclasses import replace

import torch
import torch.nn.functional as F
from detectron2.config import get_cfg

import facenet_d2
from facenet_d2.modeling.grids import InferenceSettings, matrix_nms


def inference_settings(**changes):
    """Settings of the published SOLOv2, the defaults of the config, with some changed."""
    cfg = get_cfg()
    facenet_d2.add_facenet_config(cfg)
    return replace(InferenceSettings.from_config(cfg), **changes)


def detect_by_loops(
    scores, kernels, features, min_areas, settings, input_size, output_size, stride=4
):
    """SOLOv2's inference after Points NMS, one candidate after the other.

    Returns a list of (class, score, mask).
    """
    candidates = []
    for cell in range(len(scores)):
        for c in range(scores.shape[1]):
            if scores[cell, c] <= settings.score_threshold:
                continue
            mask = (kernels[cell][:, None, None] * features).sum(0).sigmoid()
            binary = mask > settings.mask_threshold
            if binary.sum() <= min_areas[cell]:
                continue
            candidates.append((scores[cell, c] * mask[binary].mean(), c, mask, binary))
    candidates.sort(key=lambda x: -x[0])
    candidates = candidates[: settings.nms_pre]
    if not candidates:
        return []
    masks = torch.stack([x[3] for x in candidates])
    new = matrix_nms(
        masks,
        torch.tensor([x[1] for x in candidates]),
        torch.stack([x[0] for x in candidates]),
        torch.arange(len(masks)),
        masks.flatten(1).sum(dim=1).float(),
        kernel=settings.nms_kernel,
        sigma=settings.nms_sigma,
    )
    kept = [(s.item(), c, m) for s, (_, c, m, _) in zip(new, candidates, strict=True)]
    kept = sorted((k for k in kept if k[0] >= settings.update_threshold), key=lambda x: -x[0])
    results = []
    for score, c, mask in kept[: settings.max_instances]:
        size = (stride * mask.shape[0], stride * mask.shape[1])
        mask = F.interpolate(mask[None, None], size=size, mode="bilinear")
        mask = mask[:, :, : input_size[0], : input_size[1]]
        mask = F.interpolate(mask, size=output_size, mode="bilinear")[0, 0]
        results.append((c, score, mask > settings.mask_threshold))
    return results
