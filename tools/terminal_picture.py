"""Draw the text on standard input as a terminal window: `... | python tools/terminal_picture.py docs/images/x.png`."""

import sys

from PIL import Image, ImageDraw, ImageFont

SIZE, PAD, LINE = 17, 22, 23
BACK, BAR, TEXT, PROMPT = (24, 26, 31), (38, 41, 48), (216, 219, 226), (126, 200, 140)


def main() -> None:
    """Lines that start with "$ " are commands."""
    lines = sys.stdin.read().rstrip().split("\n")
    font = ImageFont.truetype("DejaVuSansMono.ttf", SIZE)
    width = round(max(font.getlength(line) for line in lines)) + 2 * PAD
    picture = Image.new("RGB", (width, len(lines) * LINE + 2 * PAD + 34), BACK)
    draw = ImageDraw.Draw(picture)
    draw.rectangle((0, 0, width, 34), fill=BAR)
    for i, colour in enumerate(((237, 106, 94), (245, 191, 79), (98, 197, 84))):
        draw.ellipse((PAD + 24 * i, 11, PAD + 24 * i + 12, 23), fill=colour)
    for i, line in enumerate(lines):
        draw.text((PAD, 34 + PAD + i * LINE), line, font=font, fill=PROMPT if line.startswith("$ ") else TEXT)
    picture.quantize(64).save(sys.argv[1], optimize=True)


if __name__ == "__main__":
    main()
