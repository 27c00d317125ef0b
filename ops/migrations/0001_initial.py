"""The last run of each scheduled job."""

from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
    ]

    operations = [
        migrations.CreateModel(
            name='JobRun',
            fields=[
                ('name', models.TextField(primary_key=True, serialize=False)),
                ('started_at', models.DateTimeField()),
                ('finished_at', models.DateTimeField(null=True)),
                ('ok', models.BooleanField(help_text='Empty while it runs', null=True)),
                ('result', models.TextField(default='')),
            ],
            options={
                'db_table': 'job_run',
                'ordering': ('name',),
            },
        ),
    ]
