#!/usr/bin/env bash
# Download the pictures of LAION as BLIP filtered it: 10,489 shards of 10,000 URLs. Before: convert_laion.py.
#
#   dataset/download_laion.sh laion_synthetic_filtered_large.parquet laion/laion_dataset [option ...]
#
# The settings, each with its reason, are in download_images.sh. Most pictures are small here, so the
# network is what waits: twice the threads.
THREADS=${THREADS:-128} exec "$(dirname "$0")/download_images.sh" "$@"
