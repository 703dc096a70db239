#!/usr/bin/env bash
# What download_cc_sbu.sh and download_laion.sh share: a list of URLs and captions -> webdataset shards of
# pictures for training at 224 pixels.
#
#   dataset/download_images.sh LIST.tsv|LIST.parquet OUT_FOLDER [option of img2dataset ...]
#
# Run it again with the same arguments after an interruption. Options behind the folder win over those here.
# img2dataset lives in an environment of its own (`make img2dataset`), because it wants older packages than
# training does; IMG2DATASET=/path/to/img2dataset names another.
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
list=$1 out=$2
shift 2

case $list in
    *.tsv) format=tsv ;;
    *.parquet) format=parquet ;;
    *) echo "error: $list must end in .tsv or .parquet (dataset/convert_cc_sbu.py makes them)" >&2; exit 2 ;;
esac
[ -s "$list" ] || { echo "error: there is no list $list" >&2; exit 2; }

root=$(cd "$(dirname "$0")/.." && pwd)
command=${IMG2DATASET:-$root/.venv-img2dataset/bin/img2dataset}
[ -x "$command" ] || command=$(command -v "${IMG2DATASET:-img2dataset}") || {
    echo "error: there is no img2dataset: run \`make img2dataset\`, or say where it is with IMG2DATASET=" >&2
    exit 2
}
cores=$(getconf _NPROCESSORS_ONLN)

settings=(
    # In and out. Of a shard's 10,000 URLs some 6,500 are alive, which makes 100 to 200 MB. Smaller ones
    # resume sooner and shuffle better, larger ones suit network disks.
    --url_list "$list" --input_format "$format" --url_col url --caption_col caption
    --output_folder "$out" --output_format webdataset --number_sample_per_shard 10000

    # Training squeezes the whole picture into a square of 224. keep_ratio makes the shorter side 224 and
    # leaves the rest as it is: nothing is cut off that the caption speaks of (center_crop), and no white
    # bars are learned (border, the default). Small pictures are not blown up. What is larger is averaged
    # over areas, which does not alias.
    --image_size 224 --resize_mode keep_ratio --resize_only_if_bigger True
    --downscale_interpolation area

    # JPEG at 95 is the default, with which the published models' pictures were made; 85 takes a third less.
    --encode_format jpg --encode_quality 95

    # One process a core decodes and resizes; its threads wait for the network. Look-ups of names fail
    # before bandwidth does: a caching resolver on this machine (knot, bind) raises what arrives.
    --processes_count "$cores" --thread_count "${THREADS:-64}"

    # Seconds without a byte until a server is given up, and how often a failure is tried again: of dead
    # links none comes back, of busy servers some do. Each try of a silent server costs a thread its 10 s.
    --timeout 10 --retries 2

    # Shards that are finished (they have a _stats.json) are kept, others are made anew as a whole. A shard
    # whose process failed is tried once more at the end.
    --incremental_mode incremental --max_shard_retry 1

    # Nobody reads EXIF data or hashes of what was there before resizing. W&B wants an account.
    --extract_exif False --compute_hash None --enable_wandb False
)

# Its library of augmentations would ask the net for its own updates.
NO_ALBUMENTATIONS_UPDATE=1 exec "$command" "${settings[@]}" "$@"
