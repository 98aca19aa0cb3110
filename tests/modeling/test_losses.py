"""The loss against equations (9) to (11) in plain loops."""

import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import nn
from torch.distributions import MultivariateNormal, kl_divergence

from facenet_d2.modeling import losses
from facenet_d2.modeling.grids.losses import category_loss, mask_loss
from facenet_d2.modeling.grids.targets import ImageTargets, assign_targets
from facenet_d2.modeling.losses import dice_loss


def test_dice_is_equation_11():
    p = torch.rand(3, 4, 5)
    q = (torch.rand(3, 4, 5) > 0.5).float()
    loss = dice_loss(p, q)
    for k in range(3):
        overlap = squares = 0.0
        for y in range(4):
            for x in range(5):
                a, b = p[k, y, x].item(), q[k, y, x].item()
                overlap += a * b
                squares += a * a + b * b
        assert loss[k].item() == pytest.approx(1 - 2 * overlap / squares, abs=1e-3)


def test_dice_of_a_perfect_mask_is_zero_and_of_a_disjoint_one_is_one():
    q = torch.zeros(1, 100)
    q[0, :50] = 1
    assert dice_loss(q, q).item() == pytest.approx(0, abs=1e-4)
    assert dice_loss(1 - q, q).item() == pytest.approx(1)


def targets(categories, cells, instances, masks):
    return ImageTargets(
        torch.tensor(categories),
        torch.tensor(cells, dtype=torch.int64),
        torch.tensor(instances, dtype=torch.int64),
        masks,
        torch.zeros(len(masks), 2),
    )


def test_category_loss_is_focal_loss_over_positive_cells_plus_one():
    logits = torch.randn(2, 4, 3)
    no_masks = torch.zeros(0, 2, 2, dtype=torch.bool)
    both = [targets([0, 3, 2, 3], [], [], no_masks), targets([3, 3, 3, 1], [], [], no_masks)]
    alpha, gamma, total = 0.25, 2.0, 0.0
    for n in range(2):
        for cell in range(4):
            for c in range(3):
                p = 1 / (1 + math.exp(-logits[n, cell, c].item()))
                if both[n].categories[cell] == c:
                    total += -alpha * (1 - p) ** gamma * math.log(p)
                else:
                    total += -(1 - alpha) * p**gamma * math.log(1 - p)
    loss = category_loss(logits, both, alpha=alpha, gamma=gamma)
    assert loss.item() == pytest.approx(total / (3 + 1), rel=1e-5)


def test_mask_loss_is_equation_10():
    features, kernels = torch.randn(2, 4, 3, 5), torch.randn(2, 6, 4)
    masks = [torch.rand(2, 3, 5) > 0.5, torch.rand(1, 3, 5) > 0.5]
    both = [
        targets([0] * 6, [1, 4, 4], [0, 0, 1], masks[0]),
        targets([0] * 6, [2], [0], masks[1]),
    ]
    losses = []
    for n, t in enumerate(both):
        for cell, instance in zip(t.cells.tolist(), t.instances.tolist(), strict=True):
            # Dynamic 1x1 convolution, pixel by pixel.
            predicted = torch.empty(3, 5)
            for y in range(3):
                for x in range(5):
                    z = sum(kernels[n, cell, d] * features[n, d, y, x] for d in range(4))
                    predicted[y, x] = 1 / (1 + math.exp(-z.item()))
            losses.append(dice_loss(predicted[None], t.masks[instance][None].float()))
    expected = torch.cat(losses).mean()
    torch.testing.assert_close(mask_loss(features, kernels, both), expected)


def image(instances):
    return {"image": torch.rand(3, 64, 80) * 255, "instances": instances}


def no_objects():
    instances = Instances((64, 80))
    instances.gt_boxes = Boxes(torch.zeros(0, 4))
    instances.gt_classes = torch.zeros(0, dtype=torch.int64)
    instances.gt_masks = BitMasks(torch.zeros(0, 64, 80, dtype=torch.bool))
    return instances


def no_objects_and_no_mask_field():
    instances = no_objects()
    instances.remove("gt_masks")
    return instances


def one_object():
    instances = Instances((64, 80))
    instances.gt_boxes = Boxes([[10.0, 10, 40, 50]])
    instances.gt_classes = torch.tensor([2])
    masks = torch.zeros(1, 64, 80, dtype=torch.bool)
    masks[0, 10:50, 10:40] = True
    instances.gt_masks = BitMasks(masks)
    return instances


@pytest.mark.parametrize(
    ("neck", "window"),
    [("build_resnet_fpn_backbone", True), ("build_resnet_face_fpn_backbone", False)],
)
@pytest.mark.parametrize(
    "batch",
    [[no_objects], [no_objects_and_no_mask_field, no_objects], [no_objects, one_object]],
)
def test_every_parameter_has_a_gradient_with_and_without_objects(model_cfg, neck, window, batch):
    model_cfg.MODEL.SOLOV2.MASK_WINDOW = window
    model_cfg.MODEL.BACKBONE.NAME = neck
    model_cfg.MODEL.SEM.ENABLED = "face" in neck
    model_cfg.MODEL.SOLOV2.DEFORM_BRANCHES = ["kernel"]
    model = build_model(model_cfg).train()
    with EventStorage():
        losses = model([image(make()) for make in batch])
    assert set(losses) == {"loss_category", "loss_mask"} | ({"loss_window"} if window else set())
    total = sum(losses.values())
    assert torch.isfinite(total)
    if one_object not in batch:
        assert losses["loss_mask"].item() == losses.get("loss_window", 0) == 0
    total.backward()
    without = [n for n, p in model.named_parameters() if p.grad is None]
    assert without == []
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())


@pytest.mark.parametrize("window", [False, True])
def test_training_under_autocast(model_cfg, window):
    """Losses are float32, and they and their gradients are close to those of float32 training."""
    model_cfg.MODEL.SOLOV2.MASK_WINDOW = window
    model_cfg.MODEL.SOLOV2.DEFORM_BRANCHES = ["kernel"]
    model = build_model(model_cfg).train()
    batch = [image(one_object())]
    results = []
    for enabled in (False, True):
        model.zero_grad()
        with EventStorage(), torch.autocast("cpu", dtype=torch.bfloat16, enabled=enabled):
            losses = model(batch)
        sum(losses.values()).backward()
        gradients = torch.cat([p.grad.flatten() for p in model.instance_head.parameters()])
        results.append((losses, gradients))
    (exact, exact_gradients), (losses, gradients) = results
    for name, value in losses.items():
        assert value.dtype == torch.float32
        torch.testing.assert_close(value, exact[name], rtol=0.02, atol=0)
    assert torch.cosine_similarity(gradients, exact_gradients, dim=0) > 0.98


def test_the_mask_loss_is_weighted_by_lambda(model_cfg):
    model = build_model(model_cfg).train()
    batch = [image(one_object())]
    with EventStorage():
        weighted = model(batch)
        model.dice_weight = 1.0
        plain = model(batch)
    assert model_cfg.MODEL.SOLOV2.DICE_WEIGHT == 3.0
    torch.testing.assert_close(weighted["loss_mask"], 3.0 * plain["loss_mask"])
    torch.testing.assert_close(weighted["loss_category"], plain["loss_category"])


def test_the_window_loss_is_the_divergence_of_the_objects_from_their_windows(model_cfg):
    """Mean over the pairs of a batch, weighted, against torch.distributions."""
    model_cfg.MODEL.SOLOV2.MASK_WINDOW = True
    model_cfg.MODEL.SOLOV2.WINDOW_LOSS_WEIGHT = 2.5
    model = build_model(model_cfg).train()
    nn.init.normal_(model.instance_head.window_pred.weight, std=0.05)
    second = one_object()
    # Two objects of different sizes, one of them rotated.
    second.gt_masks.tensor[0] = (torch.arange(64)[:, None] - torch.arange(80)).abs() < 12
    second.gt_masks.tensor[0, :, 30:] = False
    second.gt_boxes = second.gt_masks.get_bounding_boxes()
    batch = [image(one_object()), image(second)]
    with EventStorage():
        loss = model(batch)["loss_window"]
    predictions = model.predict(model.preprocess_image(batch).tensor)
    expected = []
    for n, x in enumerate(batch):
        ys, xs = x["instances"].gt_masks.tensor[0].nonzero().double().unbind(dim=1)
        cells = assign_targets(x["instances"], model.layout, 3, (16, 24)).cells
        for cell in cells.tolist():
            grid, row, column = place_of_cell(model.layout, cell)
            # All lengths in cells; the padded image has 64 x 96 pixels.
            points = torch.stack([(xs + 0.5) * grid / 96, (ys + 0.5) * grid / 64])
            pixel = torch.tensor([grid / 96, grid / 64], dtype=torch.float64) ** 2 / 12
            object_ = MultivariateNormal(
                points.mean(dim=1), torch.cov(points, correction=0) + torch.diag(pixel)
            )
            a, b, c, ox, oy = predictions.windows[n, cell].double().tolist()
            root = torch.tensor([[a, 0], [b, c]], dtype=torch.float64)
            window = MultivariateNormal(
                torch.tensor([column + 0.5 + ox, row + 0.5 + oy], dtype=torch.float64),
                # exp(-q) is exp(-(x - mean)' precision (x - mean) / 2).
                precision_matrix=2 * root.T @ root,
            )
            expected.append(kl_divergence(object_, window).log1p().item())
    assert len(expected) > 4
    assert loss.item() == pytest.approx(2.5 * sum(expected) / len(expected), rel=1e-4)


def test_windows_without_a_loss_of_their_own(model_cfg, monkeypatch):
    model_cfg.MODEL.SOLOV2.MASK_WINDOW = True
    model_cfg.MODEL.SOLOV2.WINDOW_LOSS_WEIGHT = 0.0
    model = build_model(model_cfg).train()
    # Covariances cost time, which only this loss is worth.
    monkeypatch.setattr("facenet_d2.modeling.grids.targets.mass_covariances", pytest.fail)
    with EventStorage():
        losses = model([image(one_object())])
    assert set(losses) == {"loss_category", "loss_mask"}
    losses["loss_mask"].backward()
    assert model.instance_head.window_pred.weight.grad.abs().max() > 0


@pytest.mark.parametrize(("stride", "window"), [(2, False), (4, False), (4, True)])
def test_masks_are_compared_at_the_stride_of_the_features(model_cfg, stride, window):
    """The loss is that of a rectangle drawn at this stride in the padded image."""
    model_cfg.MODEL.SOLOV2.MASK_STRIDE = stride
    model_cfg.MODEL.SOLOV2.MASK_WINDOW = window
    model = build_model(model_cfg).train()
    if window:
        nn.init.normal_(model.instance_head.window_pred.weight, std=0.05)
    instances = one_object()
    instances.gt_masks.tensor.zero_()
    instances.gt_masks.tensor[0, 8:48, 12:40] = True
    batch = [image(instances)]
    with EventStorage():
        loss = model(batch)["loss_mask"] / 3.0
    predictions = model.predict(model.preprocess_image(batch).tensor)
    size = (64 // stride, 96 // stride)
    assert predictions.mask_features.shape[2:] == size
    target = torch.zeros(size)
    target[8 // stride : 48 // stride, 12 // stride : 40 // stride] = 1
    cells = assign_targets(instances, model.layout, 3, size, stride).cells
    assert len(cells) > 0
    logits = predictions.kernels[0, cells] @ predictions.mask_features[0].flatten(1)
    if window:
        q = [window_at_pixels(predictions, model.layout, i, size) for i in cells.tolist()]
        logits = logits - torch.stack(q).flatten(1)
    expected = dice_loss(logits.sigmoid(), target.flatten().expand(len(cells), -1)).mean()
    torch.testing.assert_close(loss, expected)


def test_each_image_has_its_own_windows(model_cfg):
    """The loss of a batch is the mean over its images' pairs."""
    model_cfg.MODEL.SOLOV2.MASK_WINDOW = True
    model = build_model(model_cfg).train()
    nn.init.normal_(model.instance_head.window_pred.weight, std=0.05)
    images = [image(one_object()), image(one_object())]
    with EventStorage(), torch.no_grad():
        both, *each = (model(batch)["loss_mask"] for batch in (images, images[:1], images[1:]))
    assert abs(each[0] - each[1]) > 1e-3
    torch.testing.assert_close(both, sum(each) / 2)


def place_of_cell(layout, cell):
    """Return the size of a cell's grid, and its row and column there."""
    level = max(i for i, first in enumerate(layout.first_cells[:-1]) if first <= cell)
    grid = layout.num_grids[level]
    return grid, *divmod(cell - layout.first_cells[level], grid)


def window_at_pixels(predictions, layout, cell, size):
    """Return q of a cell at each pixel, (h, w)."""
    a, b, c, ox, oy = predictions.windows[0, cell]
    grid, row, column = place_of_cell(layout, cell)
    # Distances from the centre of the cell, in cells.
    y = (torch.arange(size[0])[:, None] + 0.5) / size[0] * grid - (row + 0.5) - oy
    x = (torch.arange(size[1]) + 0.5) / size[1] * grid - (column + 0.5) - ox
    return (a * x) ** 2 + (b * x + c * y) ** 2


@pytest.mark.parametrize("window", [False, True])
@pytest.mark.parametrize("chunk", [1, 10**9])
def test_pair_losses_are_the_dice_losses_of_gathered_masks(monkeypatch, chunk, window):
    """Values and gradients against automatic differentiation of equation (11)."""
    monkeypatch.setattr(losses, "CHUNK_FLOATS", chunk)
    # Probabilities between 0.001 and 0.999.
    kernels = (0.3 * torch.randn(7, 5, dtype=torch.float64)).requires_grad_()
    features = torch.randn(5, 30, dtype=torch.float64, requires_grad=True)
    masks = torch.rand(3, 30) > 0.6
    owners = torch.tensor([0, 0, 2, 1, 1, 2, 0])
    weights = torch.randn(7, dtype=torch.float64)
    coefficients, maps = torch.zeros(7, 6), torch.randn(6, 30)
    if window:
        coefficients = 0.2 * torch.randn(7, 6)
    inputs = kernels, features, coefficients.requires_grad_()
    p = (kernels @ features + coefficients.double() @ maps.double()).sigmoid()
    q = masks[owners].double()
    expected = 1 - 2 * (p * q).sum(1) / (p.square().sum(1) + q.square().sum(1) + 2e-3)
    gradients = torch.autograd.grad((weights * expected).sum(), inputs)
    extra = {"window": (coefficients, maps)} if window else {}
    result = losses.pair_losses(kernels, features, masks, owners, **extra)
    own = torch.autograd.grad((weights * result).sum(), inputs[: 2 + window])
    # The sigmoid is computed in single precision.
    assert torch.allclose(result.double(), expected, atol=1e-6)
    for a, b in zip(own, gradients):
        assert torch.allclose(a, b, atol=1e-6)


def test_empty_masks_have_a_gradient():
    """The chain rule in plain steps, with p (1 - p) of at least 0.001."""
    logits = torch.tensor([[-30.0, -9, -2, 0, 3, 9, 30], [-40, -40, -40, -40, -40, -40, -40]])
    masks = torch.tensor([[1, 0, 1, 1, 1, 0, 0], [0, 0, 1, 1, 0, 0, 0]], dtype=torch.bool)
    # Each mask has a kernel of its own that selects its logits.
    kernels, features = torch.eye(2), logits.clone().requires_grad_()
    losses.pair_losses(kernels, features, masks, torch.arange(2)).sum().backward()
    p, q = logits.double().sigmoid(), masks.double()
    overlap = (p * q).sum(1, keepdim=True)
    total = (p.square() + q).sum(1, keepdim=True) + 2e-3
    by_p = -2 * q / total + 4 * overlap * p / total.square()
    expected = by_p * (p * (1 - p)).clamp(min=1e-3)
    torch.testing.assert_close(features.grad.double(), expected, rtol=1e-4, atol=1e-8)
    # Gradient descent raises the pixels of the empty mask's object.
    assert (features.grad[1, 2:4] < -1e-4).all()


def test_cap_on_positive_cells_takes_them_evenly():
    """The mean shows which of the pairs, whose losses are known, are selected."""
    features = torch.zeros(2, 1, 1, 4)
    features[:, 0, 0, :] = torch.tensor([40.0, -40, -40, -40])  # Predicts the first pixel alone.
    masks = torch.zeros(4, 1, 4, dtype=torch.bool)
    for i in range(4):
        masks[i, 0, : i + 1] = True  # Dice 1 - 2 / (2 + i): 0, 1/3, 1/2, 3/5.
    kernels = torch.ones(2, 4, 1)
    both = [targets([0] * 4, [0, 1, 2, 3], [0, 1, 2, 3], masks) for _ in range(2)]
    values = torch.tensor([0, 1 / 3, 1 / 2, 3 / 5])
    whole = mask_loss(features, kernels, both)
    assert whole.item() == pytest.approx(values.mean().item(), abs=1e-3)
    for cap in (8, 100):
        assert mask_loss(features, kernels, both, max_pairs=cap) == whole
    # Four of eight: the second and fourth of each image.
    half = mask_loss(features, kernels, both, max_pairs=4)
    assert half.item() == pytest.approx((1 / 3 + 3 / 5) / 2, abs=1e-3)
    one = mask_loss(features, kernels, both, max_pairs=1)
    assert one.item() == pytest.approx(3 / 5, abs=1e-3)
