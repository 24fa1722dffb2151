"""Print where the demo's photos lie: public-domain and CC0 photos inside scikit-image."""

from pathlib import Path

import skimage

NAMES = ("astronaut.png", "camera.png", "chelsea.png", "coffee.png", "motorcycle_left.png")
NAMES += ("rocket.jpg",)

if __name__ == "__main__":
    for name in NAMES:
        print(Path(skimage.__file__).parent / "data" / name)  # noqa: T201
