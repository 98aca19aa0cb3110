"""A helpful error if OpenCV cannot be loaded; imported before everything that uses it."""

try:
    import cv2  # noqa: F401
except ModuleNotFoundError:
    # Reported by the parts that need it.
    pass
except ImportError as error:
    # On servers and in slim containers, opencv-python lacks libraries for windows.
    raise ImportError(
        f"OpenCV cannot be loaded ({error}). Install the system's library (for Debian and Ubuntu: "
        "apt-get install libgl1 libglib2.0-0), or the OpenCV that needs none: pip uninstall "
        "opencv-python; pip install --force-reinstall opencv-python-headless"
    ) from None
