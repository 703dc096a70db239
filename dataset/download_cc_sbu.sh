#!/usr/bin/env bash
# Download the pictures of CC3M, CC12M and SBU: 12.6 million URLs, 1,256 shards. Before: convert_cc_sbu.py.
#
#   dataset/download_cc_sbu.sh ccs_synthetic_filtered_large.tsv cc_sbu/cc_sbu_dataset [option ...]
#
# The settings, each with its reason, are in download_images.sh.
exec "$(dirname "$0")/download_images.sh" "$@"
