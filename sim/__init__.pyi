"""The public names of `import sim`: type checkers read them here, and so does `lazy_loader` when the package is imported."""

__version__: str

from .errors import BuslabError as BuslabError
from .experiments.batching.theory import batch_costs as batch_costs
from .experiments.claims.run import run_claims as run_claims
from .experiments.compare.compare import compare as compare
from .experiments.matrix.run import run_matrix as run_matrix
from .experiments.notebooks.conclusion import conclude as conclude
from .experiments.notebooks.conclusion import settle as settle
from .experiments.series.run import run_each as run_each
from .experiments.sweep.run import read_sweep as read_sweep
from .experiments.sweep.run import run_sweep as run_sweep
from .faults.catalogue import FAULTS as FAULTS
from .grounds.catalogue import GROUNDS as GROUNDS
from .grounds.model.fanout import predict_fanout as predict_fanout
from .machine.words import duration as duration
from .measure.buffers.predict import predict_cut as predict_cut
from .measure.capacity.answer import plan_bus as plan_bus
from .measure.capacity.plan import make_plan as make_plan
from .measure.capacity.plan import teller as teller
from .measure.capacity.report import read_capacity as read_capacity
from .measure.capacity.run import EFFORTS as EFFORTS
from .measure.capacity.run import measure_capacity as measure_capacity
from .measure.capacity.run import workload_of as workload_of
from .measure.meaning.meaning import check_scenario as check_scenario
from .measure.traffic.capture import capture_traffic as capture_traffic
from .measure.traffic.capture import wanted_of as wanted_of
from .measure.traffic.describe import describe_capture as describe_capture
from .public import findings as findings
from .public import plots as plots
from .record.capture_file import read_capture as read_capture
from .record.schema import event_id as event_id
from .results.checkers import CHECKERS as CHECKERS
from .results.checkers import judge as judge
from .results.checkers import write_verdict as write_verdict
from .results.opened_run import open_run as open_run
from .run.display import Display as Display
from .run.steps import run_scenario as run_scenario
from .scenario.asyncapi.bus import import_asyncapi as import_asyncapi
from .scenario.asyncapi.export import export_asyncapi as export_asyncapi
from .scenario.file import load_scenario as load_scenario
from .scenario.json_schema import file_schema as file_schema
from .scenario.manifests.write import manifests as manifests
from .scenario.manifests.write import write_manifests as write_manifests
from .scenario.start import new_bus as new_bus
