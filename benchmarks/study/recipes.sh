#!/usr/bin/env bash
# Every run of the study, by the package's own commands; called again, it goes on where it stopped.
#     pip install sentencepiece                    # Which the next two want.
#     python ../shared/tools/e5_small_weights.py models/e5-small-6 --layers 6
#     python ../shared/tools/e5_small_weights.py models/e5-small
#     hbt prepare benchmarks/study/store.yaml
#     hbt prepare benchmarks/study/parallel.yaml
#     bash benchmarks/study/recipes.sh [GROUP …]
# Two shells, each with WORKERS=1 and SEEDS of its own, get more done on two cores: nothing waits for a second rank.
# PRECISION=bf16 where the processor multiplies in it (amx_bf16 or avx512_bf16 in /proc/cpuinfo), as docs/study.md has.
set -euo pipefail
cd "$(dirname "$0")/../.."
SEEDS=${SEEDS:-"0 1 2"}
WORKERS=${WORKERS:-2} # Processes of one run.
PRECISION=${PRECISION:-fp32}
MANNER=("workers.count=$WORKERS" "optimiser.precision=$PRECISION")
JUDGED= # How `hbt evaluate` marks what it judged in another precision than fp32.
if [[ $PRECISION != fp32 ]]; then
  MANNER+=(model.attention=eager) # In bf16 the backward pass of sdpa is slow on processors.
  JUDGED=+$PRECISION
fi
XQUAD_R=ar,de,el,en,es,hi,ru,th,tr,vi,zh

# Name, and what it varies.
headline=(
  "hybrid-0.5"
  "mono                   plan.policy=mono"
  "cross-rows             plan.policy=cross"
)
policies=(
  "mixed                  plan.policy=mixed"
  "hybrid-0.25            plan.alpha=0.25"
  "hybrid-0.75            plan.alpha=0.75"
  "cross-pair             plan.policy=cross plan.cross=pair"
)
# In a batch of one language erasure is 0, so monolingual batches have nothing of it.
terms=(
  "hybrid+lakda-1         loss.lakda.weight=1"
  "hybrid+alignment-30    loss.alignment.weight=30"
  "hybrid+erasure-30      loss.erasure.weight=30"
  "mono+lakda-1           plan.policy=mono loss.lakda.weight=1"
)
weights=(
  "mono+alignment-30      plan.policy=mono loss.alignment.weight=30"
  "hybrid+alignment-1     loss.alignment.weight=1"
  "hybrid+erasure-1       loss.erasure.weight=1"
)
# As many pairs in all; the rate goes with the root of the batch.
batches=(
  "hybrid-batch-16        plan.batch_size=16  optimiser.steps=300 checkpoints.every=300 optimiser.learning_rate=7e-5"
  "hybrid-batch-64        plan.batch_size=64  optimiser.steps=75  checkpoints.every=75  optimiser.learning_rate=1.4e-4"
  "hybrid-batch-160       plan.batch_size=160 optimiser.steps=30  checkpoints.every=30  optimiser.learning_rate=2.2e-4"
  "hybrid-batch-480       plan.batch_size=480 optimiser.steps=10  checkpoints.every=10  optimiser.learning_rate=3.9e-4"
)
others=(
  "hybrid+negatives       negatives=stores/study.negatives/models--e5-small-6 plan.negatives=1"
  "hybrid+lora            model.lora.rank=16 optimiser.learning_rate=1e-3"
)
rates=(
  "hybrid-rate-3e-5       optimiser.learning_rate=3e-5"
  "mono-rate-3e-5         plan.policy=mono  optimiser.learning_rate=3e-5"
  "cross-rate-3e-5        plan.policy=cross optimiser.learning_rate=3e-5"
  "hybrid-rate-3e-4       optimiser.learning_rate=3e-4"
  "mono-rate-3e-4         plan.policy=mono  optimiser.learning_rate=3e-4"
  "cross-rate-3e-4        plan.policy=cross optimiser.learning_rate=3e-4"
)
longer=(
  "hybrid-600-steps       optimiser.steps=600 checkpoints.every=600"
  "mono-600-steps         plan.policy=mono  optimiser.steps=600 checkpoints.every=600"
  "cross-600-steps        plan.policy=cross optimiser.steps=600 checkpoints.every=600"
)
cold=(
  "hybrid-cold            loss.temperature=0.02"
  "mono-cold              plan.policy=mono  loss.temperature=0.02"
  "cross-cold             plan.policy=cross loss.temperature=0.02"
)
WHOLE="model.name=models/e5-small" # All twelve layers.
COLD="$WHOLE optimiser.learning_rate=3e-5 loss.temperature=0.02"
whole=(
  "hybrid-12-layers-cold"
  "mono-12-layers-cold            plan.policy=mono"
  "cross-12-layers-cold           plan.policy=cross"
)
whole_terms=(
  "hybrid+lakda-12-layers-cold     loss.lakda.weight=1"
  "hybrid+alignment-12-layers-cold loss.alignment.weight=30"
  "hybrid+erasure-12-layers-cold   loss.erasure.weight=30"
  "mono+lakda-12-layers-cold       plan.policy=mono loss.lakda.weight=1"
  "cross+lakda-12-layers-cold      plan.policy=cross loss.lakda.weight=1"
)
whole_others=(
  "hybrid-0.75-12-layers-cold      plan.alpha=0.75"
  "hybrid-0.25-12-layers-cold      plan.alpha=0.25"
)
settings=( # Of hybrid-12-layers-rate-3e-5 the page has seed 1 as well.
  "hybrid-12-layers-rate-1e-5     optimiser.learning_rate=1e-5"
  "hybrid-12-layers-rate-3e-5     optimiser.learning_rate=3e-5"
  "mono-12-layers-rate-3e-5       optimiser.learning_rate=3e-5 plan.policy=mono"
  "cross-12-layers-rate-3e-5      optimiser.learning_rate=3e-5 plan.policy=cross"
  "mono+lakda-12-layers-rate-3e-5 optimiser.learning_rate=3e-5 plan.policy=mono loss.lakda.weight=1"
  "hybrid-12-layers"
  "mono-12-layers                 plan.policy=mono"
  "cross-12-layers                plan.policy=cross"
  "mono+lakda-12-layers           plan.policy=mono loss.lakda.weight=1"
)

judge() { # encoder, settings of `hbt evaluate`
  hbt evaluate "$@" --suite benchmarks/study/suite.yaml "encoder.workers=$WORKERS" "encoder.precision=$PRECISION"
}

run() { # seed, recipe
  local words
  read -r -a words <<< "$2"
  local run="runs/study/${words[0]}-seed$1"
  [[ -d $run/model ]] ||
    hbt train benchmarks/study/train.yaml "name=${words[0]}-seed$1" "plan.seed=$1" "${MANNER[@]}" "${words[@]:1}"
  [[ -d $run/results/xquad-r$JUDGED ]] || judge "$run"
}

runs() { # seeds, recipes
  local seed recipe
  for seed in $1; do
    for recipe in "${@:2}"; do run "$seed" "$recipe"; done
  done
}

fix() { # methods, results, model, settings of both commands
  local method
  for method in $1; do
    [[ -d $2/xquad-r+$method$JUDGED ]] && continue
    hbt posthoc "${@:3}" --store stores/study-parallel --method "$method" "method.languages=[$XQUAD_R]" \
      method.texts=500 "encoder.workers=$WORKERS" "encoder.precision=$PRECISION"
    judge "${@:3}" "posthoc=$method"
  done
}

prompts=('encoder.question_prompt="query: "' 'encoder.passage_prompt="passage: "' encoder.max_length=64)
as_e5=(storage_path=runs/study "${prompts[@]}")

headline() {
  [[ -d runs/study/untrained/results/xquad-r$JUDGED ]] || judge models/e5-small-6 name=untrained "${as_e5[@]}"
  [[ -d runs/study/bm25/results/xquad-r ]] ||
    hbt evaluate bm25 --suite benchmarks/study/suite.yaml storage_path=runs/study
  runs "$SEEDS" "${headline[@]}"
}
more() { runs "3 4" "${headline[@]}"; } # Two more for those that the paper's claims are about.
policies() { runs "$SEEDS" "${policies[@]}"; }
terms() { runs "$SEEDS" "${terms[@]}"; }
weights() { runs 0 "${weights[@]}"; }
batches() { runs 0 "${batches[@]}"; }
rates() { runs 0 "${rates[@]}"; }
longer() { runs 0 "${longer[@]}"; }
cold() { runs 0 "${cold[@]}"; }
others() {
  [[ -d stores/study.negatives/models--e5-small-6 ]] || hbt mine stores/study models/e5-small-6 \
    "datasets=[docs,squad]" language=en "${prompts[@]}" "encoder.workers=$WORKERS"
  runs 0 "${others[@]}"
}
whole() {
  [[ -d runs/study/untrained-12-layers/results/xquad-r$JUDGED ]] ||
    judge models/e5-small name=untrained-12-layers "${as_e5[@]}"
  runs "$SEEDS" "${whole[@]/%/ $COLD}"
}
whole_terms() { runs "$SEEDS" "${whole_terms[@]/%/ $COLD}"; }
whole_others() { runs 0 "${whole_others[@]/%/ $COLD}"; }
whole_fixes() {
  local seed base
  fix "lir shift" runs/study/untrained-12-layers/results models/e5-small name=untrained-12-layers "${as_e5[@]}"
  for base in {hybrid,mono,cross,hybrid+lakda,mono+lakda}-12-layers-cold; do
    for seed in $SEEDS; do
      fix shift "runs/study/$base-seed$seed/results" "runs/study/$base-seed$seed"
    done
  done
  for base in {hybrid,mono,cross,hybrid+lakda}-12-layers-cold; do # The page has seeds 1 and 2 of hybrid's as well.
    fix lir "runs/study/$base-seed0/results" "runs/study/$base-seed0"
  done
}
settings() {
  runs 0 "${settings[@]/%/ $WHOLE}"
  fix shift runs/study/mono+lakda-12-layers-seed0/results runs/study/mono+lakda-12-layers-seed0
}
fixes() {
  local seed base methods="centering lir shift"
  fix "$methods" runs/study/untrained/results models/e5-small-6 name=untrained "${as_e5[@]}"
  for base in mono+lakda-1 hybrid-0.5 mono hybrid+lakda-1 cross-rows; do
    for seed in $SEEDS; do
      fix "$methods" "runs/study/$base-seed$seed/results" "runs/study/$base-seed$seed"
    done
  done
}
elsewhere() { # encoder, settings; translations in 36 languages, and English abstracts.
  hbt evaluate "$@" --suite benchmarks/study/others.yaml encoder.max_length=256 "encoder.workers=$WORKERS" \
    "encoder.precision=$PRECISION"
}
besides() { # For the first seed, as it takes longest.
  local run
  [[ -d runs/study/untrained/results/scifact$JUDGED ]] ||
    elsewhere models/e5-small-6 name=untrained "${as_e5[@]}"
  [[ -d runs/study/untrained-12-layers/results/scifact$JUDGED ]] ||
    elsewhere models/e5-small name=untrained-12-layers "${as_e5[@]}"
  for run in {mono,cross-rows,hybrid-0.5,mono+lakda-1,mixed} {mono,cross,hybrid,hybrid+lakda}-12-layers-cold; do
    [[ -d runs/study/$run-seed0/results/scifact$JUDGED ]] || elsewhere "runs/study/$run-seed0"
  done
}

all="headline more policies terms fixes others batches weights rates longer cold
  whole whole_terms whole_fixes whole_others settings besides"
for group in ${*:-$all}; do $group; done
