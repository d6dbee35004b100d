{{/* (list $ "orders" "api") → the most pods of this kind that there may be; with autoscaling, as many as that may make. */}}
{{- define "holdfast.mostReplicas" -}}
{{- $values := (index . 0).Values -}}
{{- $service := index $values.services (index . 1) -}}
{{- if eq (index . 2) "api" -}}
{{- int ($values.autoscaling.apis.enabled | ternary $service.maxReplicas $service.replicas) -}}
{{- else -}}
{{- int ($values.autoscaling.workers.enabled | ternary $service.worker.maxReplicas $service.worker.replicas) -}}
{{- end -}}
{{- end -}}

{{/*
(list $ "orders") → the connections that its pods may open, as JSON: {"sum": "2 × (1 × 12 + 1 × 13) + 1 = 51", "total": 51}.

The same sum as chassis.pooling.budget, which says why. 2: a Deployment that is rolled does not wait for its old pods to
end, so that all of them may still drain when the last new one starts. 1: the migration.
*/}}
{{- define "holdfast.connections" -}}
{{- $pool := add (include "holdfast.setting" (concat . (list "database.pool_size" 10)) | int)
  (include "holdfast.setting" (concat . (list "database.max_overflow" 0)) | int) -}}
{{- $apis := include "holdfast.mostReplicas" (append . "api") | int -}}
{{- $workers := include "holdfast.mostReplicas" (append . "worker") | int -}}
{{- $api := add $pool 2 -}}
{{- $worker := add $pool 3 -}}
{{- $total := add 1 (mul 2 (add (mul $apis $api) (mul $workers $worker))) -}}
{{- $sum := printf "2 × (%d × %d + %d × %d) + 1 = %d" $apis $api $workers $worker $total -}}
{{- dict "sum" $sum "total" $total | toJson -}}
{{- end -}}

{{/* What all of them may open, with what stays in reserve, in the same form. */}}
{{- define "holdfast.allConnections" -}}
{{- $reserve := int .Values.postgres.reservedConnections -}}
{{- $total := $reserve -}}
{{- $terms := list -}}
{{- range $name, $_ := .Values.services -}}
{{- $found := include "holdfast.connections" (list $ $name) | fromJson -}}
{{- $total = add $total (int $found.total) -}}
{{- $terms = append $terms (printf "%s: %s" $name $found.sum) -}}
{{- end -}}
{{- dict "sum" (append $terms (printf "reserve: %d" $reserve) | join "; ") "total" $total "reserve" $reserve | toJson -}}
{{- end -}}
