"""The part of the JobSet v1alpha2 schema (and of Kubernetes' Job and Pod) that our manifest uses, as a JSON schema.

Field names, types, enumerations and required fields follow api/jobset/v1alpha2/jobset_types.go of kubernetes-sigs/jobset
and batch/v1, core/v1 of Kubernetes. Unknown fields are errors, so a field that is not listed must be looked up and added.
"""


def fields(required: tuple[str, ...] = (), **properties) -> dict:
    """An object with these fields and no others."""
    return {"type": "object", "properties": properties, "required": list(required), "additionalProperties": False}


def items(of: dict, **more) -> dict:
    return {"type": "array", "items": of, **more}


TEXT, FLAG = {"type": "string"}, {"type": "boolean"}
COUNT = {"type": "integer", "minimum": 0}
NAME = {"type": "string", "pattern": "^[a-z0-9]([-a-z0-9]*[a-z0-9])?$", "maxLength": 63}
TEXTS = {"type": "object", "additionalProperties": TEXT}
QUANTITIES = {"type": "object", "additionalProperties": {"type": ["string", "integer"]}}
METADATA = fields(name=NAME, namespace=NAME, labels=TEXTS, annotations=TEXTS)

CONTAINER = fields(
    ("name", "image"),
    name=NAME,
    image=TEXT,
    command=items(TEXT),
    args=items(TEXT),
    env=items(fields(("name",), name=TEXT, value=TEXT)),
    ports=items(
        fields(("containerPort",), containerPort={"type": "integer", "minimum": 1, "maximum": 65535}, name=NAME)
    ),
    resources=fields(limits=QUANTITIES, requests=QUANTITIES),
    volumeMounts=items(fields(("name", "mountPath"), name=NAME, mountPath=TEXT, readOnly=FLAG, subPath=TEXT)),
    securityContext=fields(privileged=FLAG),
)
POD = fields(
    ("containers",),
    containers=items(CONTAINER, minItems=1),
    restartPolicy={"enum": ["Always", "OnFailure", "Never"]},
    terminationGracePeriodSeconds=COUNT,
    nodeSelector=TEXTS,
    hostNetwork=FLAG,
    dnsPolicy={"enum": ["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"]},
    tolerations=items(fields(key=TEXT, operator={"enum": ["Exists", "Equal"]}, value=TEXT, effect=TEXT)),
    volumes=items(
        fields(("name",), name=NAME, persistentVolumeClaim=fields(("claimName",), claimName=TEXT, readOnly=FLAG))
    ),
)
FAILED_POD = fields(
    ("action",),
    action={"enum": ["FailJob", "FailIndex", "Ignore", "Count"]},
    onExitCodes=fields(
        ("operator", "values"),
        containerName=NAME,
        operator={"enum": ["In", "NotIn"]},
        values=items({"type": "integer"}, minItems=1, maxItems=255, uniqueItems=True),
    ),
    onPodConditions=items(fields(("type", "status"), type=TEXT, status={"enum": ["True", "False", "Unknown"]})),
)
JOB = fields(
    ("template",),
    parallelism=COUNT,
    completions=COUNT,
    completionMode={"enum": ["NonIndexed", "Indexed"]},
    backoffLimit=COUNT,
    activeDeadlineSeconds=COUNT,
    podFailurePolicy=fields(("rules",), rules=items(FAILED_POD, maxItems=20)),
    template=fields(metadata=METADATA, spec=POD),
)
RULE = fields(
    ("action", "name"),
    name={"type": "string", "pattern": "^[A-Za-z]([A-Za-z0-9_,:]*[A-Za-z0-9_])?$"},
    action={
        "enum": [
            "FailJobSet", "RestartJobSet", "RestartJobSetAndIgnoreMaxRestarts", "RestartJob", "RestartJobAndIgnoreMaxRestarts",
        ]
    },
    onJobFailureReasons=items(
        {
            "enum": [
                "BackoffLimitExceeded", "DeadlineExceeded", "FailedIndexes", "MaxFailedIndexesExceeded", "PodFailurePolicy",
            ]
        },
        uniqueItems=True,
    ),
    onJobFailureMessagePatterns=items(TEXT, uniqueItems=True),
    targetReplicatedJobs=items(TEXT),
)  # fmt: skip
JOBSET = fields(
    ("apiVersion", "kind", "metadata", "spec"),
    apiVersion={"const": "jobset.x-k8s.io/v1alpha2"},
    kind={"const": "JobSet"},
    metadata=METADATA | {"required": ["name"]},
    spec=fields(
        ("replicatedJobs",),
        replicatedJobs=items(
            fields(
                ("name", "template"),
                name=NAME,
                groupName=NAME,
                replicas=COUNT,
                template=fields(("spec",), metadata=METADATA, spec=JOB),
                dependsOn=items(
                    fields(("name", "status"), name=TEXT, status={"enum": ["Ready", "Complete"]}), maxItems=5
                ),
            ),
            minItems=1,
        ),
        network=fields(enableDNSHostnames=FLAG, subdomain=TEXT, publishNotReadyAddresses=FLAG),
        successPolicy=fields(("operator",), operator={"enum": ["All", "Any"]}, targetReplicatedJobs=items(TEXT)),
        failurePolicy=fields(
            maxRestarts=COUNT,
            restartStrategy={"enum": ["Recreate", "BlockingRecreate", "InPlaceRestart"]},
            rules=items(RULE),
        ),
        suspend=FLAG,
        coordinator=fields(("replicatedJob",), replicatedJob=TEXT, jobIndex=COUNT, podIndex=COUNT),
        managedBy=TEXT,
        ttlSecondsAfterFinished=COUNT,
    ),
)
