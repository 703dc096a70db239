"""Convert BLIP's filtered captions of LAION, 115 million, to a table that img2dataset reads.

example:
  python dataset/convert_laion.py laion_synthetic_filtered_large.json laion_synthetic_filtered_large.parquet

Takes less than 200 MB of memory. Stopped, it leaves OUT as it was; run it again to start over.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))
from dataset.convert import main

if __name__ == "__main__":
    main(__doc__)
