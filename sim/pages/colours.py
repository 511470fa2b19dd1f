"""One colour for one fate and one verdict, wherever they are shown: pages, figures, notebooks.

The palette is that of Okabe and Ito, whose colours eyes that see few of them can tell apart. Colour is never all that tells: a fate has a
shape of its own too, and its grey (what a printer makes of the colour) differs from that of a copy that was delivered.
"""

BLUE, ORANGE, GREEN, RED, PURPLE, SKY, GREY = "#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#767676"

FATE_COLOURS = {"delivered": SKY, "duplicate": PURPLE, "missing": RED, "unexpected": ORANGE, "unknown": GREY}
FATE_WORDS = {"delivered": "delivered", "duplicate": "heard again", "missing": "lost", "unexpected": "not meant", "unknown": "in doubt"}
VERDICT_COLOURS = {"valid": "#00664b", "invalid": "#a63b00", "unknown": "#7a5200"}  # dark enough to read on white
