{{/* Names, labels and images; nothing else. Each takes a list that begins with the root context. */}}

{{/* (list $ "orders-worker") → holdfast-orders-worker */}}
{{- define "holdfast.name" -}}
{{- $name := printf "%s-%s" (index . 0).Release.Name (index . 1) -}}
{{- if gt (len $name) 63 -}}
{{- fail (printf "%s is longer than the 63 characters of a name: choose a shorter name for the release" $name) -}}
{{- end -}}
{{- $name -}}
{{- end -}}

{{/* (list $ "orders" "worker"): what a selector goes by; it must never change while a release is installed. */}}
{{- define "holdfast.selector" -}}
app.kubernetes.io/name: {{ index . 1 }}
app.kubernetes.io/instance: {{ (index . 0).Release.Name }}
app.kubernetes.io/component: {{ index . 2 }}
{{- end -}}

{{/* (list $ "orders" "worker"): all labels of an object */}}
{{- define "holdfast.labels" -}}
{{ include "holdfast.selector" . }}
app.kubernetes.io/part-of: holdfast
app.kubernetes.io/managed-by: {{ (index . 0).Release.Service }}
app.kubernetes.io/version: {{ (index . 0).Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" (index . 0).Chart.Name (index . 0).Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* (list $ "holdfast/orders") → registry.example.com/holdfast/orders:0.1.0. One that has a tag or digest stays. */}}
{{- define "holdfast.image" -}}
{{- $image := (index . 0).Values.image -}}
{{- $name := index . 1 -}}
{{- if regexMatch "[:@][^/]+$" $name -}}
{{- $name -}}
{{- else -}}
{{- with $image.registry }}{{ . }}/{{ end }}{{ $name }}:{{ $image.tag | default (index . 0).Chart.AppVersion }}
{{- end -}}
{{- end -}}
