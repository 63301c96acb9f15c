#!/bin/sh
# One adapter's whole way under governance, from its rows to their erasure. Run it where `tsugiki up` was started, with
# the base model `smollm2-135m-instruct` registered, in a folder that it may fill: sh docs/examples/governance.sh OUT
#
# Every step either does what it says or ends the script; what has to be refused ends it if it is not.
set -eu

out=${1:?say which folder to write into}
state=${TSUGIKI_STATE:-.tsugiki}
department=claims-$(date +%s)
mkdir -p "$out"

say() { printf '\n== %s\n' "$*"; }

# as KEY tsugiki …: with somebody's key. The operator's is the one that `tsugiki up` wrote beside its address.
as() { key=$1; shift; TSUGIKI_API_KEY=$key "$@"; }
operator() { tsugiki --endpoint "$state/endpoint.json" "$@"; }

# field NAME: one field of the JSON object on standard input.
field() { python3 -c 'import json, sys; print(json.load(sys.stdin)[sys.argv[1]])' "$1"; }

# refused CODE COMMAND…: it has to be refused, and for that reason.
refused() {
    code=$1; shift
    if "$@" > "$out/refusal.txt" 2>&1; then echo "was not refused: $*" >&2; exit 1; fi
    if ! grep -q -e "code $code" -e "$code" "$out/refusal.txt"; then cat "$out/refusal.txt" >&2; exit 1; fi
    sed 's/^/refused: /' "$out/refusal.txt"
}

say "Four people: an admin, a trainer who is also the data steward, an approver; and a robot for the pipeline"
operator departments create "$department"
for person in admin trainer approver; do operator users create "$person@$department.example" --name "$person"; done
operator members add "admin@$department.example" --role department_admin --department "$department"
operator roles grant "approver@$department.example" approver --department "$department"
admin=$(operator keys create --user "admin@$department.example" --department "$department")
approver=$(operator keys create --user "approver@$department.example" --department "$department")
as "$admin" tsugiki members add "trainer@$department.example" --role trainer --role data_steward
trainer=$(as "$admin" tsugiki keys create --user "trainer@$department.example")
pipeline=$(as "$admin" tsugiki service-accounts create pipeline --role viewer)

say "A policy: what is trained, and what a version has to prove"
cat > "$out/policy.yaml" <<'YAML'
format: 1
training:
  base_models: [smollm2-135m-instruct]
  max_rank: 16
release:
  evaluations:
    - measure: accuracy
      min_rows: 20
      better_than_base_by: 0.3
  servable_by:
    vllm: {max_lora_rank: 16}
YAML
as "$admin" tsugiki policy put "$out/policy.yaml"

say "Rows: the colour of the last box"
python3 - "$out" <<'PYTHON'
import json, pathlib, random, sys

colours = ["red", "green", "blue", "white", "black"]
for name, count, seed in (("train", 160, 1), ("held-out", 24, 2)):
    chosen, rows = random.Random(seed), []
    for _ in range(count):
        boxes = [chosen.choice(colours) for _ in range(chosen.randint(1, 4))]
        asked = "Boxes from left to right: " + ", ".join(boxes) + ". The last one?"
        said = [("system", "Which colour?"), ("user", asked), ("assistant", boxes[-1])]
        row = {"messages": [{"role": role, "content": content} for role, content in said]}
        rows.append(row | ({"choices": colours} if name == "held-out" else {}))
    pathlib.Path(sys.argv[1], f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
PYTHON
train() {
    as "$trainer" tsugiki jobs submit --model smollm2-135m-instruct --train "$out/train.jsonl" \
        --evaluation "$out/held-out.jsonl" --suffix last-box --seed 7 --watch "$@"
}

say "The policy refuses a job before it costs anything"
refused policy_violation train --rank 64

say "Train; the version does not pass the gate, and the pipeline knows by the exit status"
train --rank 8 --max-steps 1 --learning-rate 1e-6
refused not_better_than_base as "$pipeline" tsugiki policy check last-box 1
refused policy_violation as "$trainer" tsugiki approvals request last-box@1

say "Train again; it passes"
train --rank 8 --max-steps 20 --learning-rate 1e-3
as "$pipeline" tsugiki policy check last-box 2
as "$trainer" tsugiki adapters compare last-box 1 2

say "Ask for approval; who asks cannot decide, and nobody puts it into production before"
refused version_not_approved as "$admin" tsugiki adapters move last-box@production 2
asked=$(as "$trainer" tsugiki approvals request last-box@2 --note "Passes the gate" --json | field id)
digest=$(as "$trainer" tsugiki approvals show "$asked" --json | field digest)
refused permission_denied as "$trainer" tsugiki approvals approve "$asked" --digest "$digest"

say "Somebody else approves, on the bytes they looked at"
as "$approver" tsugiki approvals list --waiting
refused digest_changed as "$approver" tsugiki approvals approve "$asked" --digest "sha256:$(printf '0%.0s' $(seq 64))"
as "$approver" tsugiki approvals approve "$asked" --digest "$digest" --comment "Agreed"

say "Production moves, by somebody other than the approver"
refused permission_denied as "$approver" tsugiki adapters move last-box@production 2
as "$admin" tsugiki adapters move last-box@production 2

say "A server's operator pulls it and checks it offline"
as "$admin" tsugiki signing-key > "$out/signing-key.pub"
as "$admin" tsugiki adapters pull last-box@production --out "$out/production"
tsugiki verify "$out/production" --public-key "$out/signing-key.pub"

say "The next version goes the same way, and is rolled back in one call"
train --rank 8 --max-steps 24 --learning-rate 1e-3
asked=$(as "$trainer" tsugiki approvals request last-box@3 --json | field id)
digest=$(as "$approver" tsugiki approvals show "$asked" --json | field digest)
as "$approver" tsugiki approvals approve "$asked" --digest "$digest"
as "$admin" tsugiki adapters move last-box@production 3
as "$admin" tsugiki adapters rollback last-box@production
as "$admin" tsugiki adapters history last-box@production

say "Revoke: one person is enough, and nobody gets it any more"
as "$approver" tsugiki adapters revoke last-box@2 --reason "Says brown where it should say black"
as "$admin" tsugiki adapters aliases last-box
refused version_withdrawn as "$admin" tsugiki adapters pull last-box@2 --out "$out/revoked"

say "Erase the rows: a dry run, then a second person"
rows=$(as "$trainer" tsugiki files list --json | python3 -c '
import json, sys
print(next(file["id"] for file in json.load(sys.stdin) if file["filename"] == "train.jsonl"))')
as "$trainer" tsugiki files descendants "$rows"
erasure=$(as "$trainer" tsugiki erasures request "$rows" --reason "A customer withdrew consent" --json | field id)
digest=$(as "$admin" tsugiki erasures show "$erasure" --json | field digest)
refused permission_denied as "$trainer" tsugiki erasures confirm "$erasure" --digest "$digest"
as "$admin" tsugiki erasures confirm "$erasure" --digest "$digest"
as "$trainer" tsugiki files descendants "$rows"

say "What an auditor asks"
audit() { operator audit "$@"; }
audit query trained_on_file --file "$rows"
audit query rights --department "$department"
audit query not_done --department "$department"

say "And proves offline, from an export"
audit export --out "$out/trail.ndjson"
operator audit verify --export "$out/trail.ndjson" --checkpoints "$state/audit/checkpoints.jsonl" \
    --public-key "$state/audit/signing-key.pub.pem"
say "All of it was as it should be"
