"""Inference with exported models, without PyTorch and Detectron2."""
