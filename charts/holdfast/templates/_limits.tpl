{{/*
The calls that a request to a service causes, as a JSON list: a request that takes `units` from its caller's rate limit causes
at most `calls` calls. The same numbers as `causes` in each service's settings.
*/}}
{{- define "holdfast.causes" -}}
{{- list
  (dict "from" "orders" "to" "payments" "calls" 2 "units" 5)
  (dict "from" "payments" "to" "provider" "calls" 1 "units" 1) | toJson -}}
{{- end -}}

{{/*
(list $ cause) → the calls per second that the callers of a service may cause at a dependency, as JSON:
{"sum": "(clients: 3 × 10 = 30) × 2 ÷ 5 = 12", "total": 12}. The same sum as chassis.config.settings.edges.
*/}}
{{- define "holdfast.callSum" -}}
{{- $root := index . 0 -}}
{{- $cause := index . 1 -}}
{{- $service := index $cause "from" -}}
{{- $rate := include "holdfast.setting" (list $root $service "rate_limit.rate_per_second" 10) | float64 -}}
{{- $clients := include "holdfast.setting" (list $root $service "rate_limit.clients" 10) | int -}}
{{- $tiers := include "holdfast.setting" (list $root $service "rate_limit.tiers" dict) | fromJson -}}
{{- $tierOf := include "holdfast.setting" (list $root $service "rate_limit.tier_of" dict) | fromJson -}}
{{- $numbers := dict -}}
{{- range $_, $tier := $tierOf -}}
{{- $_ := set $numbers $tier (add1 (get $numbers $tier | default 0)) -}}
{{- end -}}
{{- $standard := add (max 0 (sub $clients (len $tierOf))) (get $numbers "standard" | default 0) -}}
{{- $terms := list -}}
{{- $units := 0.0 -}}
{{- if $standard -}}
{{- $total := mulf $standard $rate -}}
{{- $units = addf $units $total -}}
{{- $terms = append $terms (printf "clients: %d × %.6g = %.6g" $standard $rate $total) -}}
{{- end -}}
{{- range $tier := omit $numbers "standard" | keys | sortAlpha -}}
{{- $number := get $numbers $tier -}}
{{- $each := mulf $rate (get $tiers $tier | default 1.0) -}}
{{- $total := mulf $number $each -}}
{{- $units = addf $units $total -}}
{{- $terms = append $terms (printf "%s: %d × %.6g = %.6g" $tier $number $each $total) -}}
{{- end -}}
{{- range $caller, $_ := $root.Values.services -}}
{{- with include "holdfast.edge" (list $root $service $caller $service) -}}
{{- $units = addf $units (float64 .) -}}
{{- $terms = append $terms (printf "%s: %.6g" $caller (float64 .)) -}}
{{- end -}}
{{- end -}}
{{- $total := divf (mulf $units $cause.calls) $cause.units -}}
{{- $sum := printf "(%s) × %d ÷ %d = %.6g" ($terms | join "; " | default "no callers") (int $cause.calls) (int $cause.units) $total -}}
{{- dict "sum" $sum "total" $total | toJson -}}
{{- end -}}

{{/* (list $ "payments" "orders" "payments") → the limit of calls from orders to payments that payments reads; or nothing. */}}
{{- define "holdfast.edge" -}}
{{- $path := printf "rate_limit.edges.%s.%s" (index . 2) (index . 3) -}}
{{- include "holdfast.setting" (list (index . 0) (index . 1) $path "") -}}
{{- end -}}
