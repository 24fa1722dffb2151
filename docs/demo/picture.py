"""Join photos that the demo drew into the README's picture: python docs/demo/picture.py."""

from pathlib import Path

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent.parent
NAMES = ("chelsea", "motorcycle_left", "astronaut", "camera")
HEIGHT, GAP = 320, 6  # pixels

if __name__ == "__main__":
    photos = [Image.open(ROOT / f"out/demo/drawn/{name}.png.drawn.jpg") for name in NAMES]
    photos = [photo.resize((photo.width * HEIGHT // photo.height, HEIGHT)) for photo in photos]
    width = sum(photo.width + GAP for photo in photos) - GAP
    picture = Image.new("RGB", (width, HEIGHT), "white")
    x = 0
    for photo in photos:
        picture.paste(photo, (x, 0))
        x += photo.width + GAP
    picture.save(ROOT / "docs/demo.jpg", quality=88)
