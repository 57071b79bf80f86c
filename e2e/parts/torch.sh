#!/usr/bin/env bash
# Unpacks a real PyTorch of Python 3.11 with the CUDA libraries it loads, one folder per wheel:
#   torch.sh [--require] -> <shelf>/torch/<name>-<version>/…        4.6 GiB; what the benchmarks fetch and import
. "$(dirname "$0")/shelf.sh"
take_require "$@"

wheel() {   # wheel NAME VERSION SHA256
  "$(dirname "$0")/wheel.sh" "torch/$1-$2" "$1==$2" "$3" 2>/dev/null || true
  [ -d "$shelf/torch/$1-$2" ] || could_not "$1==$2"
}

while read -r name version sha256; do wheel "$name" "$version" "$sha256" </dev/null; done <<'L'
torch 2.5.1 de5b7d6740c4b636ef4db92be922f0edc425b65ed78c5076c43c42d362a45457
nvidia-cublas-cu12 12.9.1.4 453611eb21a7c1f2c2156ed9f3a45b691deda0440ec550860290dc901af5b4c2
nvidia-cudnn-cu12 9.28.0.42 9ff58b7f36dacd0a93e89f8f2957b52466889217963701daa15e577317cfa375
nvidia-cuda-runtime-cu12 12.9.79 25bba2dfb01d48a9b59ca474a1ac43c6ebf7011f1b0b8cc44f54eb6ac48a96c3
nvidia-cuda-cupti-cu12 12.4.127 9dec60f5ac126f7bb551c055072b69d85392b13311fcc1bcda2202d172df30fb
nvidia-cuda-nvrtc-cu12 12.4.127 a178759ebb095827bd30ef56598ec182b85547f1508941a3d560eb7ea1fbf338
nvidia-cufft-cu12 11.2.1.3 f083fc24912aa410be21fa16d157fed2055dab1cc4b6934a0e03cba69eb242b9
nvidia-curand-cu12 10.3.5.147 a88f583d4e0bb643c49743469964103aa59f7f708d862c3ddb0fc07f851e3b8b
nvidia-cusolver-cu12 11.6.1.9 19e33fa442bcfd085b3086c4ebf7e8debc07cfe01e11513cc6d332fd918ac260
nvidia-cusparse-cu12 12.3.1.170 ea4f11a2904e2a8dc4b1833cc1b5181cde564edd0d5cd33e3c168eff2d1863f1
nvidia-nccl-cu12 2.21.5 8579076d30a8c24988834445f8d633c697d42397e92ffc3f63fa26766d25e0a0
nvidia-nvtx-cu12 12.4.127 781e950d9b9f60d8241ccea575b32f5105a5baf4c2351cab5256a24869f12a1a
nvidia-nvjitlink-cu12 12.4.127 06b3b9b25bf3f8af351d664978ca26a16d2c5127dbd53c0497e28d1fb9611d57
typing-extensions 4.12.2 04e5ca0351e0f3f85c6853954072df659d0d13fac324d0072316b67d7794700d
sympy 1.13.1 db36cdc64bf61b9b24578b6f7bab1ecdd2452cf008f34faa33776680c26d66f8
mpmath 1.3.0 a0b2b9fe80bbcd81a6647ff13108738cfb482d481d826cc0e02f5b35e5c88d2c
filelock 3.16.1 2082e5703d51fbf98ea75855d9d5527e33d8ff23099bec374a134febee6946b0
networkx 3.4.2 df5d4365b724cf81b8c6a7312509d0c22386097011ad1abe274afd5e9d3bbc5f
jinja2 3.1.4 bc5dd2abb727a5319567b7a813e6a2e7318c39f4f487cfe6c89c6f9c7d25197d
markupsafe 3.0.2 a123e330ef0853c6e822384873bef7507557d8e4a082961e1defa947aa59ba84
fsspec 2024.10.0 03b9a6785766a4de40368b88906366755e2819e758b83705c88cd7cb5fe81871
L
finish
