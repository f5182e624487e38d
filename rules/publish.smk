# Copies of the small results in a bucket, by Snakemake's own storage plugin: `snakemake publish`. Not part of `all`.

if CONFIG.report.publish_url:
    BUCKET = CONFIG.report.publish_url.rstrip("/")

    localrules:
        publish_file,

    rule publish_file:
        input:
            result=RUN.folder / "{file}",
        output:
            published=storage.s3(f"{BUCKET}/{PLAN.run}/{{file}}"),
        log:
            f"{LOGS}/publish_file/{{file}}.log",
        threads: 1
        resources:
            mem_mb=growing(500),
            runtime=growing(15),
        shell:
            "cp {input.result:q} {output.published:q} > {log:q} 2>&1"

    rule publish:
        input:
            storage.s3(expand(f"{BUCKET}/{PLAN.run}/{{file}}", file=PLAN.published)),

else:

    def no_bucket(wildcards):
        raise WorkflowError("report.publish_url is null: set it to s3://bucket/prefix (docs/s3.md)")

    rule publish:
        input:
            no_bucket,
