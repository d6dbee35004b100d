{{/*
(list $ "orders") → what its pods' end takes, in whole seconds, as JSON: {"process": 37, "preStop": 5, "api": 42, "worker": 37}.

process: from SIGTERM until it has ended by itself, the sum of chassis.config.settings.ShutdownSettings, whose 12 s are for handing
jobs back, closing and the last spans. api, worker: the pod's terminationGracePeriodSeconds, which Kubernetes counts from
before preStop. Only an API has that: nothing is routed to a worker.
*/}}
{{- define "holdfast.shutdown" -}}
{{- $delay := include "holdfast.setting" (concat . (list "shutdown.readiness_delay" 0)) | float64 -}}
{{- $drain := include "holdfast.setting" (concat . (list "shutdown.drain_timeout" 20)) | float64 -}}
{{- $process := addf $delay $drain 12 | ceil | int -}}
{{- $preStop := int (index . 0).Values.preStopSeconds -}}
{{- dict "process" $process "preStop" $preStop "api" (add $preStop $process) "worker" $process | toJson -}}
{{- end -}}
