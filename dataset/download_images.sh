#!/usr/bin/env bash
# What download_cc_sbu.sh and download_laion.sh share: a list of URLs and captions -> webdataset shards of
# pictures for training at 224 pixels.
#
#   dataset/download_images.sh LIST.tsv|LIST.parquet OUT_FOLDER [option of img2dataset ...]
#
# Run it again with the same arguments after an interruption. Options after the folder override those here.
# img2dataset has an environment of its own (`make img2dataset`), because it needs older packages than
# training does; IMG2DATASET=/path/to/img2dataset names another one.
set -euo pipefail

[ $# -ge 2 ] || { sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' "$0" >&2; exit 2; }
list=$1 out=$2
shift 2

case $list in
    *.tsv) format=tsv ;;
    *.parquet) format=parquet ;;
    *) echo "error: $list must end in .tsv or .parquet (dataset/convert_cc_sbu.py makes them)" >&2; exit 2 ;;
esac
[ -s "$list" ] || { echo "error: no list $list" >&2; exit 2; }

root=$(cd "$(dirname "$0")/.." && pwd)
command=${IMG2DATASET:-$root/.venv-img2dataset/bin/img2dataset}
[ -x "$command" ] || command=$(command -v "${IMG2DATASET:-img2dataset}") || {
    echo "error: there is no img2dataset: run \`make img2dataset\`, or set IMG2DATASET to its path" >&2
    exit 2
}
cores=$(getconf _NPROCESSORS_ONLN)

settings=(
    # Input and output. About 6,500 of a shard's 10,000 URLs are alive, which makes 100 to 200 MB. Smaller
    # shards resume sooner and shuffle better, larger ones suit network disks.
    --url_list "$list" --input_format "$format" --url_col url --caption_col caption
    --output_folder "$out" --output_format webdataset --number_sample_per_shard 10000

    # Training resizes the whole picture to a square of 224. keep_ratio makes the shorter side 224: nothing
    # that the caption mentions is cut off (as by center_crop), and no white bars are learned (as with border,
    # the default). Small pictures are not enlarged. Larger ones are averaged over areas, which does not alias.
    --image_size 224 --resize_mode keep_ratio --resize_only_if_bigger True
    --downscale_interpolation area

    # JPEG quality 95 is the default, which the published models' pictures have; 85 takes a third less.
    --encode_format jpg --encode_quality 95

    # One process per core decodes and resizes; its threads wait for the network. DNS look-ups fail before
    # the bandwidth is used up: a caching resolver on this machine (knot, bind) helps.
    --processes_count "$cores" --thread_count "${THREADS:-64}"

    # Seconds without a byte until a server is given up, and the number of retries: dead links stay dead, but
    # busy servers may answer. Each attempt at a silent server costs a thread 10 s.
    --timeout 10 --retries 2

    # Finished shards (with a _stats.json) are kept, others are downloaded again. A shard whose process failed
    # is retried once at the end.
    --incremental_mode incremental --max_shard_retry 1

    # EXIF data and hashes of the original files are not used. W&B requires an account.
    --extract_exif False --compute_hash None --enable_wandb False
)

# Its augmentation library would check for updates.
NO_ALBUMENTATIONS_UPDATE=1 exec "$command" "${settings[@]}" "$@"
