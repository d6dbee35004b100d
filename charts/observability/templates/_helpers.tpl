{{/* Labels; nothing else. Each takes a list that begins with the root context. */}}

{{/* (list $ "jaeger"): what a selector goes by; it must never change while a release is installed. */}}
{{- define "observability.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
{{- end -}}

{{/* (list $ "jaeger"): all labels of an object */}}
{{- define "observability.labels" -}}
{{ include "observability.selector" . }}
app.kubernetes.io/part-of: observability
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version | replace "+" "_" }}
{{- end -}}
