{{/*
(list $ "orders") → the connections that its pods may open, as JSON: {"sum": "2 × (1 × 12 + 1 × 13) + 1 = 51", "total": 51}.

The same sum as chassis.pooling.budget, which says why. 2: a Deployment that is rolled does not wait for its old pods to
end, so that all of them may still drain when the last new one starts. 1: the migration.
*/}}
{{- define "holdfast.connections" -}}
{{- $values := (index . 0).Values -}}
{{- $service := index $values.services (index . 1) -}}
{{- $database := mergeOverwrite (deepCopy $values.config.database) $service.config.database -}}
{{- $size := $service.env.HOLDFAST_DATABASE__POOL_SIZE | default $database.pool_size | int -}}
{{- $overflow := $service.env.HOLDFAST_DATABASE__MAX_OVERFLOW | default $database.max_overflow | int -}}
{{- $api := add $size $overflow 2 -}}
{{- $worker := add $size $overflow 3 -}}
{{- $total := add 1 (mul 2 (add (mul $service.replicas $api) (mul $service.worker.replicas $worker))) -}}
{{- $sum := printf "2 × (%d × %d + %d × %d) + 1 = %d" (int $service.replicas) $api (int $service.worker.replicas) $worker $total -}}
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
