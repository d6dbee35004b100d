{{/* Layers 2 and 3 of the configuration, as the files that processes read. Addresses in the values are templates. */}}

{{/* The common file. Each process listens on every address of its pod, which may be of IPv4, of IPv6 or both. */}}
{{- define "holdfast.commonFile" -}}
{{- $everywhere := dict "host" "*" -}}
{{- $config := mergeOverwrite (deepCopy .Values.config) (dict "http" $everywhere "management" $everywhere) -}}
{{- tpl (toYaml $config) . -}}
{{- end -}}

{{/* (list $ "orders"): the service's own, with what follows from the rest of the chart. */}}
{{- define "holdfast.serviceFile" -}}
{{- $root := index . 0 -}}
{{- $service := index $root.Values.services (index . 1) -}}
{{- $all := include "holdfast.allConnections" $root | fromJson -}}
{{- $own := include "holdfast.connections" . | fromJson -}}
{{- $shutdown := include "holdfast.shutdown" . | fromJson -}}
{{- $apis := include "holdfast.mostReplicas" (append . "api") | int -}}
{{- $budget := dict "api_replicas" $apis "worker_replicas" (include "holdfast.mostReplicas" (append . "worker") | int)
  "generations" 2 "others" (sub (sub $all.total $own.total) $all.reserve) "reserve" $all.reserve -}}
{{- $config := mergeOverwrite (deepCopy $service.config) (dict
  "rate_limit" (dict "replicas" $apis)
  "database" (dict "budget" $budget)
  "shutdown" (dict "grace_period" $shutdown.process)) -}}
{{- tpl (toYaml $config) $root -}}
{{- end -}}

{{/*
(list $ "common" file) → holdfast-common-1a2b3c4d5e: the name of its ConfigMap, by what a process reads only when it starts.

A setting that is taken over while the process runs (files/reloaded.yaml) changes the file in place, and no pod is started
for it. Any other makes a ConfigMap of another name: pods are rolled, and old ones keep the file that their code knows, even
when they start again in the middle of it.
*/}}
{{- define "holdfast.configMapName" -}}
{{- $config := index . 2 | fromYaml -}}
{{- range $path := (index . 0).Files.Get "files/reloaded.yaml" | fromYamlArray -}}
{{- $parts := splitList "." $path -}}
{{- range $depth := untilStep (len $parts) 0 -1 -}}
{{- $group := $config -}}
{{- range slice $parts 0 (sub $depth 1) -}}
{{- $group = get $group . | default dict -}}
{{- end -}}
{{- $name := index $parts (sub $depth 1) -}}
{{- /* The setting itself, and then each group that is empty without it. */ -}}
{{- if or (eq $depth (len $parts)) (eq (get $group $name | toJson) "{}") -}}
{{- $_ := unset $group $name -}}
{{- end -}}
{{- end -}}
{{- end -}}
{{- include "holdfast.name" (list (index . 0) (printf "%s-%s" (index . 1) ($config | toJson | sha256sum | trunc 10))) -}}
{{- end -}}

{{- define "holdfast.commonConfigMap" -}}
{{- include "holdfast.configMapName" (list . "common" (include "holdfast.commonFile" .)) -}}
{{- end -}}

{{- define "holdfast.serviceConfigMap" -}}
{{- include "holdfast.configMapName" (append . (include "holdfast.serviceFile" .)) -}}
{{- end -}}

{{- define "holdfast.valkeyFile" -}}
bind * -::*
port 6379
dir /tmp
# Who may do what; it holds the hash of the password that the services have.
aclfile /run/secrets/valkey/users.acl
# Nothing is kept: what Valkey holds can be lost.
save ""
appendonly no
# Only keys with a time to live are evicted: cached values and limits. Streams have none, so no event is dropped
# for a cache entry; when they alone fill the memory, writes fail and the outbox waits.
maxmemory-policy volatile-lfu
{{- end -}}
